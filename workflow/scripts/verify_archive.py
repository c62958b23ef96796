"""Rule verify_archive: unpack the submission elsewhere, check it and run its kernel tests there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.bundle import BundleError, verify_archive
from evaluation.files import write_json


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.verify_archive")
    parser.add_argument("--archive", type=Path, required=True, help="archive to check")
    parser.add_argument("--output", type=Path, required=True, help="JSON of what was checked")
    parser.add_argument("--jobs", type=int, default=1, help="processes for the kernel tests")
    options = parser.parse_args(arguments)
    try:
        checked = verify_archive(options.archive, sys.executable, jobs=options.jobs)
        write_json(options.output, checked)
    except BundleError as error:
        sys.exit(f"verify_archive: {error}")


if __name__ == "__main__":
    main()
