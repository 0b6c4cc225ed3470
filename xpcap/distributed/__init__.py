"""Processes that train one model, or share pictures out, together: on this machine, or on many, started by mpiexec."""

from xpcap.distributed.group import SINGLE, Group, RankDone, abort, batches, init, launcher_rank

__all__ = ["SINGLE", "Group", "RankDone", "abort", "batches", "init", "launcher_rank"]
