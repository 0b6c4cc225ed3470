"""Timings of training and sampling: xpcap's, and its peers' on the same work.

It lies beside the package, and nothing in xpcap knows of it. `python -m benchmarks --help` has the
usual timings. Read `work` first (what is timed), then `timing` (how), `contenders` (who; `textbook`
and `peer_torch` are two of them), `measure` (one round of one) and `results` (rounds, tables, a
plot). To add a contender, add an entry to `contenders.CONTENDERS`. `step_profile` divides a
step on a card, and `step_paths` holds its paths against NumPy.

The others each print a table of docs/develop/results: `ablation`, `parts`, `quality`, `ranks`,
`threads`; `pairs` times two checkouts in turn. README.md has options, columns and method.
"""
