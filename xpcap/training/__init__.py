"""The solver: batches to updates of the parameters, of any model and data set. Open solver.py first.

objectives.py has losses and gradients, state.py what a checkpoint holds, and evaluate.py the scores
after an epoch. Nothing here knows a folder.
"""

from xpcap.distributed import SINGLE, Group
from xpcap.training.evaluate import teacher_forced
from xpcap.training.objectives import CrossEntropy, Objective, SelfCritical, scale_logits
from xpcap.training.solver import CaptioningSolver
from xpcap.training.watcher import Watcher

__all__ = [
    "SINGLE", "CaptioningSolver", "CrossEntropy", "Group", "Objective", "SelfCritical",
    "Watcher", "scale_logits", "teacher_forced",
]  # fmt: skip
