"""Caption files to data sets: one file a format, and `assemble`, which does everything that formats have in common.

A reader of a format returns ``{split: {picture: [captions]}}`` and nothing else, or ``{picture: [captions]}`` if its files know no splits.
"""

from xpcap.prepare.dataset import assemble, import_captions
from xpcap.prepare.detect import read_captions
from xpcap.prepare.features import encode_folder, read_features
from xpcap.prepare.splits import Findings
from xpcap.prepare.tables import Columns

__all__ = [
    "Columns",
    "Findings",
    "assemble",
    "encode_folder",
    "import_captions",
    "read_captions",
    "read_features",
]
