"""What is to be seen of a run: learning curves, captions beside their pictures, and a page that holds both."""

from xpcap.report.captions import draw_captions
from xpcap.report.curves import draw_loss, loss_curve, perplexity_curve
from xpcap.report.page import Card, Gallery, write_page
from xpcap.report.text import visible

__all__ = ["Card", "Gallery", "draw_captions", "draw_loss", "loss_curve", "perplexity_curve", "visible", "write_page"]
