"""Decoding: from a model's probabilities to captions; it knows no model. Open decode.py first.

`decode` runs one loop over hypotheses; a `Policy` (policies.py, beam.py) chooses the next words.
"""
