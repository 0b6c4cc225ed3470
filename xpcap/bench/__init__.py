"""How long a training step takes: here, and in what others use for it.

`configs` says what is timed, `timing` how, `contenders` who; `apart` gives each a process of its own, `results` makes the table. A new
contender is a function in `contenders.CONTENDERS`.
"""

from xpcap.bench.configs import CONFIGS, Config, usual
from xpcap.bench.results import PEERS, Result, bench, table
from xpcap.bench.timing import USUAL, Plan

__all__ = ["CONFIGS", "PEERS", "USUAL", "Config", "Plan", "Result", "bench", "table", "usual"]
