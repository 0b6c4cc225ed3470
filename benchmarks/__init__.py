"""Times training and sampling, for xpcap and its peers.

`configs` holds the sizes, `work` the model and data that all contenders share, `timing` the clocks, `contenders` the table of contenders.
`measuring` times one round of one contender, `apart` does it in a separate process, `results` alternates the rounds and takes medians, `tables`
and `plot` show the results. To add a contender, add an entry to `contenders.CONTENDERS`. `host_time` measures the host's share of a step on a
card without one: `fake_device` has what each call costs, `fake_cupy` what stands in for CuPy.
"""

from benchmarks.apart import machine_apart
from benchmarks.configs import BEAMS, BESIDE, CONFIGS, TRAINING, WORKS, Config, scaling, usual
from benchmarks.host_time import HOST_TIME, HostTime, host_time_rows, host_times
from benchmarks.plot import draw_scaling
from benchmarks.results import PEERS, Result, bench
from benchmarks.tables import tables
from benchmarks.timing import USUAL, Plan

__all__ = [
    "BEAMS",
    "BESIDE",
    "CONFIGS",
    "HOST_TIME",
    "PEERS",
    "TRAINING",
    "USUAL",
    "WORKS",
    "Config",
    "HostTime",
    "Plan",
    "Result",
    "bench",
    "draw_scaling",
    "host_time_rows",
    "host_times",
    "machine_apart",
    "scaling",
    "tables",
    "usual",
]
