"""Rule leaderboard: lay the model and its kernels into the one file that the leaderboard takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.files import write_atomically
from evaluation.language import LanguageError, check_language
from evaluation.onefile import OneFileError, bundle
from evaluation.provenance import git_state

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.leaderboard")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    state = git_state()
    commit = state["commit"] and state["commit"] + (", changed" if state["dirty"] else "")
    try:
        write_atomically(options.output, bundle(ROOT, commit).text)
        check_language([options.output])
    except (OneFileError, LanguageError) as error:
        options.output.unlink(missing_ok=True)
        sys.exit(f"leaderboard: {error}")


if __name__ == "__main__":
    main()
