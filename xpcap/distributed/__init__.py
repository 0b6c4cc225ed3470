"""Ranks: processes that train one model or share pictures. Open group.py first, then mpi.py."""

from xpcap.distributed.group import SINGLE, Group, RankDone, abort, batches, init, launcher_rank

__all__ = ["SINGLE", "Group", "RankDone", "abort", "batches", "init", "launcher_rank"]
