"""Decoding: captions from a model's probabilities, for any model. Open decode.py first.

`decode` loops over time steps; a `Policy` (policies.py, beam.py) chooses the next words.
"""
