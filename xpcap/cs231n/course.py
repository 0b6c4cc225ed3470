"""Run a notebook of CS231n on xpcap's functions: begin it with `import xpcap.cs231n.course`.

Modules such as ``cs231n.rnn_layers`` and ``cs231n.classifiers.rnn``, or ``deeplearning.*``, as other
courses call them, then come from xpcap, unless there is a package of that name. imports.py lists
the modules; data.py makes a small data set in the layout of the course's.
"""

from xpcap.cs231n.data import image_from_url, write_course_data
from xpcap.cs231n.imports import install, override

install()

__all__ = ["image_from_url", "override", "write_course_data"]
