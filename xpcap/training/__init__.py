"""Training. Open solver.py first; then objectives, optimizer, evaluate, state, losses."""

from xpcap.distributed import SINGLE, Group
from xpcap.training.evaluate import teacher_forced
from xpcap.training.objectives import CrossEntropy, Objective, SelfCritical, scale_logits
from xpcap.training.solver import CaptioningSolver

__all__ = [
    "SINGLE", "CaptioningSolver", "CrossEntropy", "Group", "Objective", "SelfCritical",
    "scale_logits", "teacher_forced",
]  # fmt: skip
