"""How long training and sampling take: here, and in what others use for it.

`configs` says what is timed, `work` what must come out of it, `timing` how, `contenders` who; `measuring` is a round of one of them, `apart` gives
it a process of its own, `results` takes turns and sums up, `tables` and `plot` show. A new contender is an entry of `contenders.CONTENDERS`.
"""

from xpcap.bench.configs import BESIDE, CONFIGS, TRAINING, WORKS, Config, scaling, usual
from xpcap.bench.plot import draw_scaling
from xpcap.bench.results import PEERS, Result, bench
from xpcap.bench.tables import tables
from xpcap.bench.timing import USUAL, Plan

__all__ = [
    "BESIDE",
    "CONFIGS",
    "PEERS",
    "TRAINING",
    "USUAL",
    "WORKS",
    "Config",
    "Plan",
    "Result",
    "bench",
    "draw_scaling",
    "scaling",
    "tables",
    "usual",
]
