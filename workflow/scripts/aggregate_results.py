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
    parser.add_argument("--artefacts", type=Path, nargs="+", required=True, help="their manifests")
    parser.add_argument("--kernel-tests", type=Path, nargs="+", required=True, help="test results")
    parser.add_argument("--predictions", type=Path, nargs="+", required=True, help="modelled times")
    parser.add_argument("--validation", type=Path, required=True, help="of the latency model")
    parser.add_argument("--ladder", type=Path, required=True, help="steps of tuning")
    parser.add_argument("--model-manifest", type=Path, required=True, help="the checkpoint's")
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
