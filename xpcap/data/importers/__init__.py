"""Caption files to data sets: one file a format, and `assemble`, which does everything that formats have in common.

A reader of a format returns ``{split: {picture: [captions]}}`` and nothing else, or ``{picture: [captions]}`` if its files know no splits.
"""

from xpcap.data.importers.assemble import assemble
from xpcap.data.importers.build import import_captions
from xpcap.data.importers.detect import read_captions
from xpcap.data.importers.features import encode_folder, read_features
from xpcap.data.importers.findings import Findings
from xpcap.data.importers.flickr8k import import_flickr8k, read_flickr8k
from xpcap.data.importers.tables import Columns

__all__ = [
    "Columns",
    "Findings",
    "assemble",
    "encode_folder",
    "import_captions",
    "import_flickr8k",
    "read_captions",
    "read_features",
    "read_flickr8k",
]
