"""Contracts for tests of your layers, cells and update rules: all that xpcap relies on.

cell.py is the longest of them, and claims.py has what they share. `import xpcap` does not load it.
"""

from xpcap.errors import ContractError
from xpcap.testing.cell import CELL, check_cell
from xpcap.testing.layer import LAYER, check_layer
from xpcap.testing.update_rule import UPDATE_RULE, check_update_rule

__all__ = [
    "CELL",
    "LAYER",
    "UPDATE_RULE",
    "ContractError",
    "check_cell",
    "check_layer",
    "check_update_rule",
]
