"""Timings of training and captions: xpcap's, and its peers' on the same work.

It lies beside the package, and nothing in xpcap knows of it. Read `work` first (what is timed), then
`timing` (how), `contenders` (who; `textbook` and `peer_torch` are two of them), `measure` (one round
of one) and `results` (rounds, tables). README.md has options, columns, method and other programs.
"""
