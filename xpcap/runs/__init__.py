"""A run folder on disk, opened: what it was made of, and its captioner. Open run.py first.

recipe.py has the options of a training, config.py the file that records them, and folder.py the
other files. decoder.py decodes captions of features; records.py and explanation.py define them.
trained_on.py tells which data a run has seen.
"""

from xpcap.runs.decoder import RerankedBeam
from xpcap.runs.run import Run, default_policy

__all__ = ["RerankedBeam", "Run", "default_policy"]
