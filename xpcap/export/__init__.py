"""A run as files for other programs. Open onnx_folder.py first, then onnx_graphs.py."""

from xpcap.export.onnx_folder import Exported, export_onnx
from xpcap.export.onnx_graphs import WEIGHTS

__all__ = ["WEIGHTS", "Exported", "export_onnx"]
