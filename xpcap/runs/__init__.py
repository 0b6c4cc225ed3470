"""Use cases over a run folder: train, evaluate, caption. Open train.py first, and then run.py.

plan.py plans a training and saver.py writes it down; a run is opened by run.py, and captions by
decoder.py. config.py and folder.py have the format of the folder.
"""

from xpcap.report.doctor import Diagnosis
from xpcap.report.look import Inside
from xpcap.report.records import PictureCaption, Skipped
from xpcap.report.scores import Comparison, Scores, compare
from xpcap.runs.captions import caption_run
from xpcap.runs.decoder import Decoder, RankedBeam
from xpcap.runs.doctor import examine_run
from xpcap.runs.folder import is_run, load_state, save_state
from xpcap.runs.look import look_inside
from xpcap.runs.outputs import write_captions
from xpcap.runs.pages import picture_finder, write_caption_page, write_caption_png
from xpcap.runs.pictures import PictureCaptioner, caption_files, open_captioner
from xpcap.runs.plan import choose
from xpcap.runs.recipe import Recipe, TrainOptions
from xpcap.runs.run import Run, default_policy, open_run, open_runs
from xpcap.runs.saver import Stopped
from xpcap.runs.scoring import evaluate_run, score_captions
from xpcap.runs.train import Trained, train_run

__all__ = [
    "Comparison", "Decoder", "Diagnosis", "Inside", "PictureCaption", "PictureCaptioner",
    "RankedBeam", "Recipe", "Run", "Scores", "Skipped", "Stopped", "TrainOptions", "Trained",
    "caption_files", "caption_run", "choose", "compare", "default_policy", "evaluate_run",
    "examine_run", "is_run", "load_state", "look_inside", "open_captioner", "open_run", "open_runs",
    "picture_finder", "save_state", "score_captions", "train_run", "write_caption_page",
    "write_caption_png", "write_captions",
]  # fmt: skip
