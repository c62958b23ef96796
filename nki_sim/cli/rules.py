"""``rules``: what the language check looks for."""

from __future__ import annotations

import argparse


def main(_: argparse.Namespace) -> int:
    """Print the table."""
    from ..lint.rules import markdown

    print(markdown(), end="")
    return 0
