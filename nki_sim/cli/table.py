"""``table``: the modelled instructions, from their declarations."""

from __future__ import annotations

import argparse


def main(_: argparse.Namespace) -> int:
    """Print the table."""
    from ..table import markdown

    print(markdown(), end="")
    return 0
