"""Trusted code that runs in the student's process, for checks that need objects of the student's.

Each function takes the student's modules, as `child.Modules`, and what the check sends. It imports
NumPy and the standard library alone.
"""

import inspect
from typing import Any


def parameters(student: Any, module: str, name: str) -> list[str]:
    """The names of the parameters of a function or of a class's constructor."""
    return list(inspect.signature(getattr(getattr(student, module), name)).parameters)
