"""Run a notebook of CS231n on xpcap's functions: begin it with `import xpcap.course`.

Modules such as ``cs231n.rnn_layers`` and ``cs231n.classifiers.rnn``, or ``deeplearning.*``, as other
courses call them, then come from xpcap, unless there is a package of that name. exercise/imports.py
lists the modules; exercise/data.py makes a small data set in the layout of the course's.
"""

from xpcap.exercise.data import image_from_url, write_course_data
from xpcap.exercise.imports import install, override

install()

__all__ = ["image_from_url", "override", "write_course_data"]
