"""Bad input by the thousand: one file for each kind, with `make`, which writes an input, and `use`,
which opens it.
"""
