"""Rule make_tiny_model: write the tiny checkpoint, then the manifest that says it is complete."""

from __future__ import annotations

import argparse
from pathlib import Path

from model.manifest import write_manifest
from model.tiny import write_tiny_checkpoint


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.make_tiny_model")
    parser.add_argument("--directory", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="seed of the weights")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    options = parser.parse_args(arguments)
    options.manifest.unlink(missing_ok=True)  # one that exists is always true
    write_tiny_checkpoint(options.directory, options.seed)
    source = {"kind": "tiny", "seed": options.seed}
    write_manifest(options.directory, options.manifest, source)


if __name__ == "__main__":
    main()
