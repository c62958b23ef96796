"""Whatever is done to a record, it is refused, with the path to the field at fault."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.files import to_json
from evaluation.problems import is_number, lookup, walk
from evaluation.records import RecordError, load_record, validate, validate_file

from . import result_files

Record = dict[str, Any]
BACKENDS = ("simulator", "neuron")
CHEAP = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    simulated = result_files.make(tmp_path_factory.mktemp("results")).record()
    return {"simulator": simulated, "neuron": result_files.on_a_device(simulated)}


def put(record: Record, path: str, value: Any) -> None:
    """Replace the value at a path whose keys hold no dots or brackets."""
    *steps, last = path.replace("[", ".").replace("]", "").split(".")
    place: Any = record
    for step in steps:
        place = place[int(step) if isinstance(place, list) else step]
    place[int(last) if isinstance(place, list) else last] = value


def numbers(record: Record) -> list[str]:
    found = [path for path, value in walk(record) if is_number(value)]
    return [path for path in found if not path.startswith("provenance.")]


def altered(record: Record, path: str, value: Any) -> Record:
    copied = copy.deepcopy(record)
    put(copied, path, value)
    return copied


def paths(record: Record) -> set[str]:
    return {problem.path for problem in validate(record)}


NO_NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf])


@pytest.mark.parametrize("backend", BACKENDS)
@CHEAP
@given(data=st.data())
def test_what_is_no_number_is_found_wherever_it_stands(
    records: dict[str, Record], backend: str, data: st.DataObject
) -> None:
    record = records[backend]
    path = data.draw(st.sampled_from(numbers(record)))
    assert path in paths(altered(record, path, data.draw(NO_NUMBERS)))


@pytest.mark.parametrize("backend", BACKENDS)
@CHEAP
@given(data=st.data())
def test_numbers_as_text_or_nothing_are_found(
    records: dict[str, Record], backend: str, data: st.DataObject
) -> None:
    record = records[backend]
    path = data.draw(st.sampled_from(numbers(record)))
    value = lookup(record, path)
    other = data.draw(st.sampled_from([str(value), f"{value} ms", [value], {"value": value}, True]))
    whole = {"statistics": "statistics"}.get(path.split(".")[0], path)
    assert any(p.startswith(whole) for p in paths(altered(record, path, other)))


@pytest.mark.parametrize("backend", BACKENDS)
@CHEAP
@given(data=st.data())
def test_negative_times_and_sizes_are_found(
    records: dict[str, Record], backend: str, data: st.DataObject
) -> None:
    record = records[backend]
    ends = ("_ms", "_bytes", "_tok_s")
    quantities = [
        path for path in numbers(record) if path.rsplit(".")[-1].split("[")[0].endswith(ends)
    ]
    path = data.draw(st.sampled_from(quantities))
    negative = -data.draw(st.floats(1e-9, 1e9))
    assert path in paths(altered(record, path, negative))


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("side", ["baseline", "nki"])
def test_seconds_for_milliseconds_are_found(
    records: dict[str, Record], side: str, factor: float
) -> None:
    """A latency in another unit contradicts its samples, its throughput or its statistics."""
    record, place = records["neuron"], f"per_prompt_results[0].{side}"
    for path in (f"{place}.latency_ms", f"{place}.throughput_tok_s"):
        assert path in paths(altered(record, path, factor * lookup(record, path)))
    samples = [factor * sample for sample in lookup(record, f"{place}.latency.samples_ms")]
    found = paths(altered(record, f"{place}.latency.samples_ms", samples))
    assert {f"{place}.latency_ms", f"{place}.throughput_tok_s"} <= found


@pytest.mark.parametrize("name", ["mean_ms", "p50_ms", "p99_ms", "context_encoding_mean_ms"])
def test_host_times_in_another_unit_are_found(records: dict[str, Record], name: str) -> None:
    path = f"per_prompt_results[1].nki.host_time.{name}"
    record = records["simulator"]
    assert path in paths(altered(record, path, lookup(record, path) / 1e3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prompt", [0, 1])
def test_a_missing_prompt_is_found(records: dict[str, Record], backend: str, prompt: int) -> None:
    record = copy.deepcopy(records[backend])
    del record["per_prompt_results"][prompt]
    found = paths(record)
    assert "summary.prompts_total" in found and "summary.tokens_checked" in found
    assert prompt == 1 or "per_prompt_results" in found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prompt", [0, 1])
def test_a_duplicated_prompt_is_found(
    records: dict[str, Record], backend: str, prompt: int
) -> None:
    record = copy.deepcopy(records[backend])
    record["per_prompt_results"].append(copy.deepcopy(record["per_prompt_results"][prompt]))
    assert {"per_prompt_results", "summary.prompts_total"} <= paths(record)


def test_no_prompt_at_all_is_found(records: dict[str, Record]) -> None:
    record = altered(records["simulator"], "per_prompt_results", [])
    assert "per_prompt_results" in paths(record)


def cuts(text: str) -> Iterator[int]:
    yield from range(0, len(text) - 2, max(1, len(text) // 60))


def test_a_file_cut_off_anywhere_is_one_problem(records: dict[str, Record], tmp_path: Path) -> None:
    text, path = to_json(records["simulator"]), tmp_path / "cut.json"
    for end in cuts(text):
        path.write_text(text[:end])
        (problem,) = validate_file(path)
        assert "perhaps truncated" in problem.found
        with pytest.raises(RecordError):
            load_record(path)


@pytest.mark.parametrize(
    ("spelt", "said"),
    [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e999", "Infinity")],
)
def test_what_is_no_json_number_is_refused_with_its_path(
    records: dict[str, Record], tmp_path: Path, spelt: str, said: str
) -> None:
    path = tmp_path / "record.json"
    record = altered(records["simulator"], "per_prompt_results[1].nki.host_time.mean_ms", "HERE")
    path.write_text(json.dumps(record).replace('"HERE"', spelt))
    (problem,) = validate_file(path)
    assert problem.path == "per_prompt_results[1].nki.host_time.mean_ms"
    assert f"{problem.path}: {said} is no JSON number" in problem.found


def test_a_key_given_twice_is_refused_with_its_path(
    records: dict[str, Record], tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    text = json.dumps(records["simulator"])
    path.write_text(text.replace('"prompts_passed":', '"accuracy": 1.0, "prompts_passed":', 1))
    (problem,) = validate_file(path)
    assert problem.path == "summary.accuracy" and "given twice" in problem.found
