"""What the commands train, evaluate and caption do, as functions: options in, a run folder, scores, captions or pages out."""

from xpcap.runs.captioning import PictureCaption, Skipped, caption_files, caption_run, data_of
from xpcap.runs.evaluation import Evaluation, evaluate_run
from xpcap.runs.options import GENERATED, TrainOptions, choose, defaults, with_out
from xpcap.runs.pages import Look, check_place, look_at_files, look_in, write_caption_page, write_caption_png
from xpcap.runs.stopping import Stopped
from xpcap.runs.training import Trained, train_run

__all__ = [
    "GENERATED",
    "Evaluation",
    "Look",
    "PictureCaption",
    "Skipped",
    "Stopped",
    "TrainOptions",
    "Trained",
    "caption_files",
    "caption_run",
    "check_place",
    "choose",
    "data_of",
    "defaults",
    "evaluate_run",
    "look_at_files",
    "look_in",
    "train_run",
    "with_out",
    "write_caption_page",
    "write_caption_png",
]
