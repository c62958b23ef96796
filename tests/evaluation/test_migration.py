"""Older records in their own words: files that earlier versions of this project wrote.

`1.0_first_*` are by the commit that brought version 1.0 in, `1.0_last_*` by the last before 1.1;
both on the invented results of `result_files`, with and without a device.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evaluation.files import read_json, sha256_file, write_json
from evaluation.migration import SCHEMA_VERSION, STEPS, MigrationError, migrate
from evaluation.records import load_record, schema, validate, validate_file

FILES = sorted((Path(__file__).parent / "records").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_record_of_an_earlier_version_is_valid_in_this_one(path: Path) -> None:
    before, sha256 = read_json(path), sha256_file(path)
    assert before["schema_version"] == "1.0" and validate(before) != []
    assert validate_file(path) == []
    record = load_record(path)
    assert record["schema_version"] == SCHEMA_VERSION
    kept = before.keys() - {"schema_version", "absent"}
    assert {key: record[key] for key in kept} == {key: before[key] for key in kept}
    assert "provenance.results" in [entry["key"] for entry in record["absent"]]
    assert sha256_file(path) == sha256


def test_statistics_are_computed_from_old_samples_but_hosts_are_not_guessed() -> None:
    record = read_json(next(path for path in FILES if path.stem == "1.0_last_device"))
    few, _ = migrate(record)
    reasons = {entry["key"]: entry["reason"] for entry in few["absent"]}
    assert "statistics" not in few and reasons["statistics"].startswith("3 timed run(s)")
    for prompt in record["per_prompt_results"]:
        for side in ("baseline", "nki"):
            prompt[side]["latency"]["samples_ms"] *= 2
    many, _ = migrate(record)
    assert many["statistics"]["tail"]["runs"] == 6 and "comparison" not in many["statistics"]
    assert "statistics.comparison" in [entry["key"] for entry in many["absent"]]


def test_every_version_leads_to_the_present_one() -> None:
    assert schema()["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    for version in STEPS:
        record, passed = migrate({"schema_version": version})
        assert record["schema_version"] == SCHEMA_VERSION
        assert passed[0] == version and passed[-1] == SCHEMA_VERSION


def test_what_is_given_stays_as_it_is() -> None:
    old: dict[str, Any] = {"schema_version": "1.0", "absent": []}
    before = copy.deepcopy(old)
    migrate(old)
    assert old == before
    for content in (None, [], {"summary": 1}, {"schema_version": SCHEMA_VERSION}):
        assert migrate(content) == (content, [])


@pytest.mark.parametrize("version", ["0.9", "1.2", 1, 1.0, [], {}, True])
def test_an_unknown_version_is_refused(version: Any, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=r"one of 1\.0, 1\.1, found"):
        migrate({"schema_version": version})
    write_json(tmp_path / "x.json", {"schema_version": version})
    (problem,) = validate_file(tmp_path / "x.json")
    assert problem.path == "schema_version"


@pytest.mark.parametrize("absent", [3, "x", {}])
def test_a_broken_old_record_is_one_problem(absent: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"schema_version": "1.0", "absent": absent})
    assert [problem.path for problem in validate_file(tmp_path / "x.json")] == ["schema_version"]
