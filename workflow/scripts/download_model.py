"""Rule download_model: fetch a checkpoint from the Hugging Face Hub and write its manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model.fetch import FetchError, fetch


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.download_model")
    parser.add_argument("--repo-id", required=True, help="repository on the hub")
    parser.add_argument("--revision", required=True, help="commit of the repository")
    parser.add_argument("--directory", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    options = parser.parse_args(arguments)
    try:
        fetch(options.repo_id, options.revision, options.directory, options.manifest)
    except FetchError as error:
        sys.exit(f"download_model: {error}")


if __name__ == "__main__":
    main()
