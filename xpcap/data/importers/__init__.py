"""Caption files to data sets: one file a format, and `assemble`, which does everything that formats have in common.

A reader of a format returns ``{split: {picture: [captions]}}`` and nothing else.
"""

from xpcap.data.importers.assemble import assemble
from xpcap.data.importers.features import encode_folder, read_features
from xpcap.data.importers.flickr8k import import_flickr8k, read_flickr8k

__all__ = ["assemble", "encode_folder", "import_flickr8k", "read_features", "read_flickr8k"]
