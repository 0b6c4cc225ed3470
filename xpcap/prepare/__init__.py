"""Make a data set of caption files and pictures. Open pipeline.py first, at `import_captions`.

A reader is a generator of `CaptionRow`. `read_captions` chooses a reader for each file, and
`assemble` builds the data set from the rows of any reader.
"""

from xpcap.prepare.detect import read_captions
from xpcap.prepare.features import encode_folder, read_features
from xpcap.prepare.options import AssembleOptions, PrepareOptions
from xpcap.prepare.pipeline import assemble, import_captions
from xpcap.prepare.rows import CaptionRow, Columns, ImportReport

__all__ = [
    "AssembleOptions",
    "CaptionRow",
    "Columns",
    "ImportReport",
    "PrepareOptions",
    "assemble",
    "encode_folder",
    "import_captions",
    "read_captions",
    "read_features",
]
