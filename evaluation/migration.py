"""Older records become present ones: one step per version of the schema, in a chain.

A step adds what follows from the record itself and lists what cannot be known under `absent`; no
step invents a figure. Files without a schema_version are no records of ours and stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from evaluation.problems import lookup, shown
from evaluation.uncertainty import add_statistics

SCHEMA_VERSION = "1.1"
RESULTS = "provenance.results"


class MigrationError(ValueError):
    """A record of a version that no step leads from."""

    def __init__(self, expected: str, found: str) -> None:
        self.both = (expected, found)
        super().__init__(f"schema_version: expected {expected}, found {found}")


def _to_1_1(record: dict[str, Any]) -> str:
    """Add statistics where there are samples of a device; nothing else that is new can be known."""
    absent = record.setdefault("absent", [])
    reason = "made by version 1.0, which did not keep the hashes of result files"
    absent.append({"key": RESULTS, "reason": reason})
    absent.append({"key": "modelled", "reason": "made by version 1.0, which predicted nothing"})
    if lookup(record, "backend") == "neuron":
        add_statistics(record, None)
    return "1.1"


STEPS: dict[str, Callable[[dict[str, Any]], str]] = {"1.0": _to_1_1}
"""By version, the step to the next one, which it returns."""


def migrate(record: Any) -> tuple[Any, list[str]]:
    """Return a record in the present version, and the versions that it passed through.

    The record given is not changed, and returned as it is when nothing is to be done. Raises
    MigrationError for a version that is not known.
    """
    version = lookup(record, "schema_version")
    if version is None or version == SCHEMA_VERSION:
        return record, []
    if not isinstance(version, str) or version not in STEPS:
        known = ", ".join((*STEPS, SCHEMA_VERSION))
        raise MigrationError(f"one of {known}", shown(version))
    migrated, passed = copy.deepcopy(record), [version]
    while version != SCHEMA_VERSION:
        try:
            version = STEPS[version](migrated)
        except (AttributeError, TypeError):  # a list or a text where an object is due
            raise MigrationError(f"a record in the form of {version}", "another form") from None
        migrated["schema_version"] = version
        passed.append(version)
    return migrated, passed
