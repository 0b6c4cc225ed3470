"""Files of captions, in the forms they come in, to data sets."""

from xpcap.data.importers.flickr8k import import_flickr8k

__all__ = ["import_flickr8k"]
