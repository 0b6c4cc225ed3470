"""Pages and pictures for people: markup, charts, text, attention overlays, captioned pictures.

Callers give numbers, texts and pictures; nothing here depends on a run. Open markup.py first.
"""

from xpcap.report.captioned_pictures import CaptionedPicture, draw_captions
from xpcap.report.overlay import overlay
from xpcap.report.text import escape_control, signed

__all__ = [
    "CaptionedPicture",
    "draw_captions",
    "escape_control",
    "overlay",
    "signed",
]
