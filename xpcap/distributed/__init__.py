"""Ranks: processes that train one model or share pictures out together. Open group.py first; mpi.py
is what MPI adds.
"""

from xpcap.distributed.group import SINGLE, Group, RankDone, abort, batches, init, launcher_rank

__all__ = ["SINGLE", "Group", "RankDone", "abort", "batches", "init", "launcher_rank"]
