"""Times training and sampling, for xpcap and its peers.

`configs` holds the sizes, `work` the model and data that all contenders share, `timing` the clocks, `contenders` the table of contenders.
`measuring` times one round of one contender, `apart` does it in a separate process, `results` alternates the rounds and takes medians, `tables`
and `plot` show the results. To add a contender, add an entry to `contenders.CONTENDERS`.
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
