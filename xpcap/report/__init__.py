"""Pages, learning curves, and captions below their pictures. Open page.py first."""

from xpcap.report.captions import AttentionMap, draw_captions, overlay
from xpcap.report.curves import cider_curve, draw_loss, loss_curve, perplexity_curve
from xpcap.report.look import Inside, write_look_page
from xpcap.report.page import Card, Gallery, Option, Reasons, Similar, write_page
from xpcap.report.text import columns, escape_control, signed, visible

__all__ = [
    "AttentionMap",
    "Card",
    "Gallery",
    "Inside",
    "Option",
    "Reasons",
    "Similar",
    "cider_curve",
    "columns",
    "draw_captions",
    "draw_loss",
    "escape_control",
    "loss_curve",
    "overlay",
    "perplexity_curve",
    "signed",
    "visible",
    "write_look_page",
    "write_page",
]
