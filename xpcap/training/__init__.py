"""Training: the solver, its objectives, its history and its state."""

from xpcap.distributed import SINGLE, Group
from xpcap.training.objectives import Objective, SelfCritical, cross_entropy, sharpen, smoothed_cross_entropy
from xpcap.training.solver import CaptioningSolver

__all__ = ["SINGLE", "CaptioningSolver", "Group", "Objective", "SelfCritical", "cross_entropy", "sharpen", "smoothed_cross_entropy"]
