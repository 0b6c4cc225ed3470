"""The course's imports on xpcap: write `import xpcap.course` first in a notebook of CS231n.

From then on this process imports ``cs231n.rnn_layers``, ``cs231n.classifiers.rnn`` and their like,
and ``deeplearning.*``, as some courses call them, from xpcap, unless a package of that name has
them. exercise/imports.py has the table; exercise/data.py makes a small data set in the layout of the
course's.
"""

from xpcap.exercise.data import image_from_url, write_course_data
from xpcap.exercise.imports import install, override

install()

__all__ = ["image_from_url", "override", "write_course_data"]
