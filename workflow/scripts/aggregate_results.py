"""Rule aggregate_results: collect everything measured into the record, validated."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evaluation.aggregation import aggregate
from evaluation.files import write_json
from evaluation.freshness import StaleInput
from evaluation.history import file_record
from evaluation.records import RecordError


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.aggregate_results")
    parser.add_argument("--config", type=json.loads, required=True, help="configuration, as JSON")
    parser.add_argument("--prompts", type=Path, required=True, help="prompts file")
    parser.add_argument("--evaluations", type=Path, nargs="+", required=True, help="evaluations")
    parser.add_argument("--checks", type=Path, nargs="*", required=True, help="of kernel paths")
    for each in ("--artefacts", "--kernel-tests", "--predictions"):
        parser.add_argument(each, type=Path, nargs="+", required=True, help="their files")
    for one in ("--validation", "--ladder", "--model-manifest"):
        parser.add_argument(one, type=Path, required=True, help="the file")
    parser.add_argument("--output", type=Path, required=True, help="record to write")
    parser.add_argument("--history", type=Path, required=True, help="folder that keeps a copy")
    given = vars(parser.parse_args(arguments))
    output, folder = given.pop("output"), given.pop("history")
    try:
        write_json(output, aggregate(**given))
        file_record(output, folder)
    except (StaleInput, RecordError) as error:
        sys.exit(f"aggregate_results: {error}")


if __name__ == "__main__":
    main()
