"""What the commands train, evaluate and caption do, as functions: options in; a run folder, scores, captions or pages out."""

from xpcap.runs.captioning import PictureCaption, caption_run, data_of
from xpcap.runs.checkpoint import load_state, save_state
from xpcap.runs.choosing import choose
from xpcap.runs.comparing import Comparison, compare
from xpcap.runs.doctor import examine_run
from xpcap.runs.ensemble import is_run, open_runs
from xpcap.runs.evaluation import Evaluation, evaluate_run
from xpcap.runs.findings import Finding
from xpcap.runs.folder import Run, open_run
from xpcap.runs.new_pictures import Skipped, caption_files
from xpcap.runs.options import GENERATED, TrainOptions
from xpcap.runs.pages import Downloads, Look, check_place, look_at_files, look_in, write_caption_page, write_caption_png
from xpcap.runs.place import is_saved
from xpcap.runs.said import read_said
from xpcap.runs.scoring import Scores, score_captions
from xpcap.runs.stopping import Stopped
from xpcap.runs.training import Trained, train_run

__all__ = [
    "GENERATED",
    "Comparison",
    "Downloads",
    "Evaluation",
    "Finding",
    "Look",
    "PictureCaption",
    "Run",
    "Scores",
    "Skipped",
    "Stopped",
    "TrainOptions",
    "Trained",
    "caption_files",
    "caption_run",
    "check_place",
    "choose",
    "compare",
    "data_of",
    "evaluate_run",
    "examine_run",
    "is_run",
    "is_saved",
    "load_state",
    "look_at_files",
    "look_in",
    "open_run",
    "open_runs",
    "read_said",
    "save_state",
    "score_captions",
    "train_run",
    "write_caption_page",
    "write_caption_png",
]
