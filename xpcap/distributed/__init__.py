"""Processes that train one model, or share pictures out, together: on this machine, or on many, started by mpiexec."""

from xpcap.distributed.group import ALONE, Group, Released, abort, batches, join, told

__all__ = ["ALONE", "Group", "Released", "abort", "batches", "join", "told"]
