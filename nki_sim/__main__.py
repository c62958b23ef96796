"""Command line: ``python -m nki_sim table`` prints the table of modelled instructions."""

from __future__ import annotations

import argparse


def main() -> None:
    """Parse the command line and run the one command there is."""
    parser = argparse.ArgumentParser(prog="python -m nki_sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="print the table of modelled instructions as Markdown")
    parser.parse_args()

    from .table import markdown

    print(markdown(), end="")


if __name__ == "__main__":
    main()
