"""Training. Open solver.py first; then objectives, watcher, optimizer, evaluate, state, losses."""

from xpcap.distributed import SINGLE, Group
from xpcap.training.evaluate import teacher_forced
from xpcap.training.objectives import CrossEntropy, Objective, SelfCritical, scale_logits
from xpcap.training.solver import CaptioningSolver
from xpcap.training.watcher import Watcher

__all__ = [
    "SINGLE", "CaptioningSolver", "CrossEntropy", "Group", "Objective", "SelfCritical",
    "Watcher", "scale_logits", "teacher_forced",
]  # fmt: skip
