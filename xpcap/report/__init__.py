"""Pages, learning curves, and captions below their pictures. Open markup.py first."""

from xpcap.report.captions import CaptionedPicture, draw_captions
from xpcap.report.curves import draw_loss
from xpcap.report.overlay import overlay
from xpcap.report.records import PictureCaption, Ranked, Skipped
from xpcap.report.text import columns, escape_control, signed

__all__ = [
    "CaptionedPicture",
    "PictureCaption",
    "Ranked",
    "Skipped",
    "columns",
    "draw_captions",
    "draw_loss",
    "escape_control",
    "overlay",
    "signed",
]
