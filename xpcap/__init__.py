"""LSTM image captioners with hand-written forward and backward passes, on NumPy or CuPy.

Caption pictures with a trained run::

    captioner = xpcap.open_captioner("runs/flickr8k")
    result = captioner.caption("dog.jpg")  # or bytes, an open file, a Pillow image, an RGB array
    print(result.caption, result.probabilities)
    for result in captioner.captions(["dog.jpg", "cat.jpg"], policy=xpcap.Beam(5)):
        print(result)  # a PictureCaption, or a Skipped with the reason

Train a run, on the data set that the command `xpcap prepare` makes of pictures and captions::

    run, evaluation = xpcap.train_run(xpcap.Recipe("flickr8k.h5", out="runs/flickr8k"))

docs/howto/caption-in-programs.md and docs/reference/python.md have the rest. To read the code, open
layers/lstm.py (the equations), models/network.py, training/solver.py and decoding/decode.py, in this order;
docs/explain/how-it-works.md follows one caption through them.
"""

from typing import TYPE_CHECKING

from xpcap.backend import (
    asarray,
    backend_status,
    get_array_module,
    get_backend,
    to_numpy,
    use_backend,
)
from xpcap.backend.plain_code import plain
from xpcap.captioning.captions import caption_files, open_captioner
from xpcap.captioning.scores import evaluate_run
from xpcap.data import (
    CaptionData,
    decode_captions,
    load_coco_data,
    open_data,
    sample_coco_minibatch,
    to_coco,
    write_dataset,
)
from xpcap.data.features import fit_scaling
from xpcap.drawings import generate
from xpcap.errors import BackendError, DataError, GroupError, OptionError, SaveError, TrainingError
from xpcap.models import Beam, CaptioningRNN, Greedy, ModelConfig
from xpcap.runs.folder import load_state, save_state
from xpcap.runs.recipe import Recipe
from xpcap.runs.records import PictureCaption, Skipped
from xpcap.runs.run import open_run
from xpcap.trainer.saver import Stopped
from xpcap.trainer.train import train_run
from xpcap.training.solver import CaptioningSolver
from xpcap.training.watcher import Watcher

if TYPE_CHECKING:
    from xpcap import gradcheck as gradcheck
else:

    def __getattr__(name):
        """Import `xpcap.gradcheck` when it is first used."""
        if name != "gradcheck":
            raise AttributeError(f"module 'xpcap' has no attribute {name!r}")
        import xpcap.gradcheck as module

        return module


__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "Beam",
    "CaptionData",
    "CaptioningRNN",
    "CaptioningSolver",
    "DataError",
    "Greedy",
    "GroupError",
    "ModelConfig",
    "OptionError",
    "PictureCaption",
    "Recipe",
    "SaveError",
    "Skipped",
    "Stopped",
    "TrainingError",
    "Watcher",
    "__version__",
    "asarray",
    "backend_status",
    "caption_files",
    "decode_captions",
    "evaluate_run",
    "fit_scaling",
    "generate",
    "get_array_module",
    "get_backend",
    "load_coco_data",
    "load_state",
    "open_captioner",
    "open_data",
    "open_run",
    "plain",
    "sample_coco_minibatch",
    "save_state",
    "to_coco",
    "to_numpy",
    "train_run",
    "use_backend",
    "write_dataset",
]
