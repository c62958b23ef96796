"""The record's section of modelled times: of the whole model, their validation, steps of tuning.

It stands apart from whatever was measured, and is about Qwen3-30B-A3B on a chip, whatever model and
backend the rest of the record is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.freshness import ResultFile
from evaluation.provenance import modelled_inputs, prediction_files, validation_files
from kernels.variants import ladder_variants

PLATFORMS = ("trn2", "trn3")
_OF_THE_FILE = ("schema_version", "inputs")


def modelled(
    predictions: Sequence[ResultFile], validation: ResultFile, ladder: ResultFile
) -> dict[str, Any]:
    """Return the section, from the files of the predictions, their validation and the tuning."""
    by_platform = {file.content["platform"]: _content(file) for file in predictions}
    return {
        "basis": "modelled",
        "predictions": {platform: by_platform[platform] for platform in PLATFORMS},
        "validation": _content(validation),
        "ladders": _content(ladder),
    }


def stale_modelled(
    predictions: Sequence[ResultFile], validation: ResultFile, ladder: ResultFile
) -> Iterator[str]:
    """Yield what is wrong with the files: one per platform, made from what there is now."""
    platforms = [file.content.get("platform") for file in predictions]
    if sorted(map(str, platforms)) != list(PLATFORMS):
        yield f"predictions for {platforms}; predict once each for {', '.join(PLATFORMS)}"
    now = modelled_inputs(prediction_files())
    for file in predictions:
        if file.content.get("inputs") != now:
            yield f"{file.path}: made from other sources; predict {file.path.stem} again"
    if validation.content.get("inputs") != modelled_inputs(validation_files()):
        yield f"{validation.path}: made from other sources; run the validation again"
    kernels = ladder.content.get("kernels", {}).values()
    if [step["variant"] for one in kernels for step in one["steps"]] != ladder_variants():
        yield f"{ladder.path}: other steps than kernels/variants.py has; collect the ladder again"


def _content(file: ResultFile) -> dict[str, Any]:
    return {name: value for name, value in file.content.items() if name not in _OF_THE_FILE}
