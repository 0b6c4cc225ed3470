"""Contracts for tests of your layers, cells and update rules: everything that xpcap relies on.

Open layer.py first; claims.py has the comparisons that all contracts use. `import xpcap` does not
load this subpackage.
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
