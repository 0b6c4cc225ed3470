"""Train, evaluate and caption with a run folder. Open train.py first, then run.py.

plan.py plans a training, and saver.py writes its files. run.py opens a run, and decoder.py decodes
its captions. config.py and folder.py define the files of the folder. pages.py, model_card.py,
scores.py, doctor.py and look.py report on a run.
"""

from xpcap.runs.captions import PictureCaptioner as PictureCaptioner
from xpcap.runs.captions import caption_files as caption_files
from xpcap.runs.captions import caption_run as caption_run
from xpcap.runs.captions import open_captioner as open_captioner
from xpcap.runs.decoder import Decoder as Decoder
from xpcap.runs.decoder import RerankedBeam as RerankedBeam
from xpcap.runs.doctor import Diagnosis as Diagnosis
from xpcap.runs.doctor import examine_run as examine_run
from xpcap.runs.folder import is_run as is_run
from xpcap.runs.folder import load_state as load_state
from xpcap.runs.folder import save_state as save_state
from xpcap.runs.look import TracedCaption as TracedCaption
from xpcap.runs.look import look_inside as look_inside
from xpcap.runs.look import look_page as look_page
from xpcap.runs.outputs import write_captions as write_captions
from xpcap.runs.pages import caption_page as caption_page
from xpcap.runs.pages import caption_png as caption_png
from xpcap.runs.pages import picture_finder as picture_finder
from xpcap.runs.recipe import Recipe as Recipe
from xpcap.runs.records import PictureCaption as PictureCaption
from xpcap.runs.records import Skipped as Skipped
from xpcap.runs.run import Run as Run
from xpcap.runs.run import default_policy as default_policy
from xpcap.runs.run import open_run as open_run
from xpcap.runs.saver import Stopped as Stopped
from xpcap.runs.scores import Comparison as Comparison
from xpcap.runs.scores import Scores as Scores
from xpcap.runs.scores import compare as compare
from xpcap.runs.scores import evaluate_run as evaluate_run
from xpcap.runs.scores import score_captions as score_captions
from xpcap.runs.train import Trained as Trained
from xpcap.runs.train import train_run as train_run
