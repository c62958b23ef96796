"""The tensor-returning functions of ``nki.language`` (experimental in SDK 2.29 and later).

Each is a sequence of instructions on fresh tiles: they check, execute and are accounted like those
that a kernel writes itself. No document says which instructions the vendor's functions become; the
sequences here are the obvious ones, so their cost is approximate, their results are as exact as the
instructions.
"""
