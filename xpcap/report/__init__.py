"""Forms of what people read: markup, curves, text, attention over a picture, captions below theirs.

It knows no run: a caller gives numbers, texts and pictures. Open markup.py first.
"""

from xpcap.report.captions import CaptionedPicture, draw_captions
from xpcap.report.overlay import overlay
from xpcap.report.text import escape_control, signed

__all__ = [
    "CaptionedPicture",
    "draw_captions",
    "escape_control",
    "overlay",
    "signed",
]
