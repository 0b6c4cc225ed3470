"""Export a run as files for other programs, or as a page for browsers.

Open onnx_folder.py first, then onnx_graphs.py; web_folder.py writes the page, whose modules are in
web/.
"""

from xpcap.export.onnx_folder import Exported, export_onnx
from xpcap.export.onnx_graphs import WEIGHTS
from xpcap.export.web_folder import VERSION as RUNTIME_VERSION
from xpcap.export.web_folder import export_web

__all__ = ["RUNTIME_VERSION", "WEIGHTS", "Exported", "export_onnx", "export_web"]
