"""Train, evaluate and caption with a run folder. Open train.py first, then run.py.

plan.py plans a training, and saver.py writes its files. run.py opens a run, and decoder.py decodes
its captions. config.py and folder.py define the files of the folder. pages.py, model_card.py,
scores.py, doctor.py and look.py report on a run.
"""

from xpcap.runs.captions import PictureCaptioner, caption_run
from xpcap.runs.decoder import RerankedBeam
from xpcap.runs.doctor import examine_run
from xpcap.runs.look import look_inside, look_page
from xpcap.runs.outputs import write_captions
from xpcap.runs.run import Run, default_policy
from xpcap.runs.scores import score_captions

__all__ = [
    "PictureCaptioner",
    "RerankedBeam",
    "Run",
    "caption_run",
    "default_policy",
    "examine_run",
    "look_inside",
    "look_page",
    "score_captions",
    "write_captions",
]
