"""Use a run: caption pictures, score, explain and diagnose it. Open captions.py first.

outputs.py writes tables, texts and pictures of captions; pages.py, look.py and model_card.py write
pages about a run. scores.py evaluates and compares runs, and doctor.py looks for symptoms.
"""

from xpcap.captioning.captions import PictureCaptioner, caption_run
from xpcap.captioning.doctor import examine_run
from xpcap.captioning.look import look_inside, look_page
from xpcap.captioning.outputs import write_captions
from xpcap.captioning.scores import score_captions

__all__ = [
    "PictureCaptioner",
    "caption_run",
    "examine_run",
    "look_inside",
    "look_page",
    "score_captions",
    "write_captions",
]
