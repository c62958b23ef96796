"""Rule rule_graph: draw the rules as a document."""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.files import write_atomically
from workflow.rulegraph import document


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.rule_graph")
    parser.add_argument("--root", type=Path, required=True, help="folder of the Snakefile")
    parser.add_argument("--output", type=Path, required=True, help="document to write")
    options = parser.parse_args(arguments)
    write_atomically(options.output, document(options.root))


if __name__ == "__main__":
    main()
