"""Rule plot_figure: draw one figure of the report from the record, as PDF and as PNG."""

from __future__ import annotations

import argparse
from pathlib import Path

from report.figures import FIGURES, plot


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.plot_figure")
    parser.add_argument("--figure", choices=list(FIGURES), required=True, help="which figure")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--pdf", type=Path, required=True, help="PDF to write")
    parser.add_argument("--png", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    plot(options.figure, options.record, options.pdf, options.png)


if __name__ == "__main__":
    main()
