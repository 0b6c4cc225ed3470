"""Times training and captioning with xpcap, and with peers on the same work.

xpcap does not import benchmarks. Read `work` first (the work that is timed), then `timing` (clocks),
`contenders` (xpcap, `textbook`, `peer_torch`), `measure` (a round of a contender) and `results`
(rounds and tables). README.md has options, columns, method and other programs.
"""
