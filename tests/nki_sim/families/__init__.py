"""Small complete kernels, one file per family of published ones, with their NumPy equivalents.

Each kernel runs on one core or two, computes what the published kernels of its family compute, in
ways that are typical of them, and is no longer than needed for that: examples to read as well as
tests. `case` says how they are run; ``CASES`` at the end of each file lists what is run.
"""
