"""xpcap: LSTM image captioners with hand-written forward and backward passes, on NumPy or on CuPy, from one source."""

from xpcap import blas as blas  # loads NumPy as it is best loaded, so it comes first
from xpcap.backend import asarray, backend_status, get_array_module, get_backend, to_numpy, use_backend
from xpcap.data import CaptionData, decode_captions, load_coco_data, open_data, sample_coco_minibatch
from xpcap.models import CaptioningRNN
from xpcap.training.solver import CaptioningSolver

__version__ = "0.1.0"
__all__ = [
    "CaptionData",
    "CaptioningRNN",
    "CaptioningSolver",
    "asarray",
    "backend_status",
    "decode_captions",
    "get_array_module",
    "get_backend",
    "load_coco_data",
    "open_data",
    "sample_coco_minibatch",
    "to_numpy",
    "use_backend",
]
