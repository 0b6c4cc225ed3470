"""What is to be seen of a run: learning curves, captions beside their pictures, and a page that holds both."""

from xpcap.report.captions import draw_captions
from xpcap.report.curves import draw_loss, loss_curve, perplexity_curve
from xpcap.report.page import Card, Gallery, write_page

__all__ = ["Card", "Gallery", "draw_captions", "draw_loss", "loss_curve", "perplexity_curve", "write_page"]
