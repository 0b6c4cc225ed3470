"""Ranks: processes that train one model together, or divide pictures among them.

Open group.py first, then launcher.py and mpi.py. work.py has the current work: its ranks, progress
bars and notices.
"""

from xpcap.distributed.group import SINGLE, Group, RankDone
from xpcap.distributed.launcher import abort, init, launcher_rank

__all__ = ["SINGLE", "Group", "RankDone", "abort", "init", "launcher_rank"]
