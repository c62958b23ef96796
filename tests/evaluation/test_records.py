"""Validation finds whatever is wrong with a record, on our own files and on anybody's."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from evaluation.files import write_json
from evaluation.problems import Problem, expand, is_deeper_than, lookup, number, shown
from evaluation.records import RecordError, load_record, schema, validate, validate_file

from . import result_files

Record = dict[str, Any]


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return result_files.make(tmp_path_factory.mktemp("results")).record()


@pytest.fixture
def record(simulated: Record) -> Record:
    return copy.deepcopy(simulated)


@pytest.fixture
def device(simulated: Record) -> Record:
    return result_files.on_a_device(simulated)


def put(record: Record, path: str, value: Any) -> None:
    """Set a value by its path; `delete` removes it."""
    steps = [int(index) if index else name for name, index in re.findall(r"(\w+)|\[(\d+)\]", path)]
    steps = [int(s) if isinstance(s, str) and s.isdecimal() else s for s in steps]
    place: Any = record
    for step in steps[:-1]:
        place = place[step]
    if value is delete:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value


def delete() -> None:
    """Marks a value to remove."""


def at(problems: list[Problem], path: str) -> list[Problem]:
    return [problem for problem in problems if problem.path == path]


def test_valid_records_have_no_problems(record: Record, device: Record) -> None:
    assert validate(record) == []
    assert validate(device) == []


NKI = "per_prompt_results[0].nki"
TIME = f"{NKI}.host_time"
ACCURACY = f"{NKI}.accuracy"
KERNEL = "nki_kernels_implemented[2]"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        # the form
        ("schema_version", "9.9", "schema_version"),
        ("team", delete, "team"),
        ("unknown", 1, "unknown"),
        (f"{TIME}.basis", delete, f"{TIME}.basis"),
        (f"{TIME}.basis", "guessed", f"{TIME}.basis"),
        (f"{KERNEL}.cost.basis", "measured", f"{KERNEL}.cost.basis"),
        ("score_baselines.basis", "measured", "score_baselines.basis"),
        (f"{TIME}.mean_ms", "1250", f"{TIME}.mean_ms"),
        ("timestamp", "yesterday", "timestamp"),
        ("provenance.prompts_sha256", "abc", "provenance.prompts_sha256"),
        # figures that are no figures
        (f"{TIME}.samples_ms[1]", float("nan"), f"{TIME}.samples_ms[1]"),
        (f"{TIME}.mean_ms", float("inf"), f"{TIME}.mean_ms"),
        (f"{TIME}.samples_ms[0]", -3.0, f"{TIME}.samples_ms[0]"),
        (f"{KERNEL}.cost.hbm_read_bytes", -1, f"{KERNEL}.cost.hbm_read_bytes"),
        # statistics of samples
        (f"{TIME}.mean_ms", 1251.0, f"{TIME}.mean_ms"),
        (f"{TIME}.p50_ms", 1251.0, f"{TIME}.p50_ms"),
        (f"{TIME}.p99_ms", 1500.0, f"{TIME}.p99_ms"),
        (f"{TIME}.p99_ms", 1249.0, f"{TIME}.p99_ms"),
        (f"{TIME}.samples_ms", [1250.0, 1250.0], f"{TIME}.samples_ms"),
        (f"{TIME}.context_encoding_mean_ms", 1.0, f"{TIME}.context_encoding_mean_ms"),
        (f"{TIME}.token_generation_mean_ms", 1.0, f"{TIME}.token_generation_mean_ms"),
        # prompts and tokens
        ("per_prompt_results[1].prompt_id", 0, "per_prompt_results"),
        ("per_prompt_results[1].prompt_id", 2, "per_prompt_results"),
        ("summary.prompts_total", 5, "summary.prompts_total"),
        ("per_prompt_results[0].input_tokens", 633, "per_prompt_results[0].output_tokens"),
        ("per_prompt_results[0].output_tokens", 9, "per_prompt_results[0].output_tokens"),
        ("summary.tokens_checked", 17, "summary.tokens_checked"),
        ("summary.tokens_equal", 15, "summary.tokens_equal"),
        # accuracy
        ("summary.accuracy", 0.9, "summary.accuracy"),
        ("summary.prompts_passed", 1, "summary.prompts_passed"),
        (f"{ACCURACY}.tokens_equal", 7, f"{ACCURACY}.tokens_equal"),
        (f"{ACCURACY}.tokens_checked", 7, f"{ACCURACY}.tokens_checked"),
        (f"{ACCURACY}.passed", False, f"{ACCURACY}.passed"),
        (f"{ACCURACY}.top_k[1].passed", False, f"{ACCURACY}.top_k[1].passed"),
        (f"{ACCURACY}.top_k[1].worst_relative_error", 0.2, f"{ACCURACY}.top_k[1].passed"),
        (
            f"{ACCURACY}.top_k[1].fraction_of_tolerance", 0.2,
            f"{ACCURACY}.top_k[1].fraction_of_tolerance",
        ),
        (
            f"{ACCURACY}.top_k[1].allowed_relative_error", 0.01,
            f"{ACCURACY}.top_k[1].allowed_relative_error",
        ),
        (ACCURACY, delete, ACCURACY),
        # kernels
        (f"{KERNEL}.launches.prefill", 3, f"{KERNEL}.launches.prefill"),
        (f"{KERNEL}.launches.decode_step", 0, f"{KERNEL}.launches.decode_step"),
        (f"{KERNEL}.launches", delete, f"{KERNEL}.launches"),
        (f"{KERNEL}.validation_max_diff", 0.0, f"{KERNEL}.validation_max_diff"),
        (f"{KERNEL}.validation_max_diff", "<1e-3", f"{KERNEL}.validation_max_diff"),
        (f"{KERNEL}.kernel", "rmsnorm", "nki_kernels_implemented"),
        # what is absent, and what a simulator cannot give
        ("absent[0].key", "summary.accuracy", "summary.accuracy"),
        ("absent", [], "summary.nki_total_score"),
        ("summary.nki_total_score", 0, "summary.nki_total_score"),
        (f"{NKI}.latency_ms", 7100.0, f"{NKI}.latency_ms"),
        (f"{NKI}.score", 2.3, f"{NKI}.score"),
        # the configuration
        ("provenance.config_sha256", "0" * 64, "provenance.config_sha256"),
        ("test_configuration.max_new_tokens", 16, "test_configuration.max_new_tokens"),
        ("platform_target", "trn3", "platform_target"),
        ("team.name", "Others", "team"),
        ("scoring_formula", "Score = 1", "scoring_formula"),
    ],
)  # fmt: skip
def test_each_alteration_is_found(record: Record, path: str, value: Any, where: str) -> None:
    put(record, path, value)
    problems = validate(record)
    assert at(problems, where), "\n".join(map(str, problems))


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (f"{NKI}.latency_ms", 9000.0, f"{NKI}.latency_ms"),
        (f"{NKI}.throughput_tok_s", 70.0, f"{NKI}.throughput_tok_s"),
        (f"{NKI}.score", 3.0, f"{NKI}.score"),
        (f"{NKI}.latency", delete, f"{NKI}.latency_ms"),
        (f"{NKI}.latency.samples_ms[4]", delete, f"{NKI}.latency.samples_ms"),
        (f"{NKI}.latency.basis", "guessed", f"{NKI}.latency_ms"),
        (f"{NKI}.host_time.samples_ms[2]", 1.0, f"{NKI}.latency.samples_ms"),
        (f"{NKI}.mac_ratio.challenge_ratio", 0.6, f"{NKI}.nki_flops_ratio"),
        ("summary.nki_flops_ratio", 0.6, "summary.nki_flops_ratio"),
        (f"{NKI}.nki_flops_ratio", 0.6, f"{NKI}.score"),
        ("per_prompt_results[0].improvement_percent", 50.0,
         "per_prompt_results[0].improvement_percent"),
        ("summary.nki_total_score", 11.84, "summary.nki_total_score"),
        ("summary.baseline_total_score", 8.24, "summary.baseline_total_score"),
        ("summary.improvement_percent", 43.7, "summary.improvement_percent"),
        ("score_baselines.per_prompt[0].latency_ms", 526.15, f"{NKI}.score"),
        ("score_baselines.per_prompt[1].prompt_id", 7, "score_baselines.per_prompt"),
        ("scoring_formula",
         "Score = Accuracy x (Base_Latency/Your_Latency) x (Your_Throughput/Base_Throughput) x "
         "NKI_FLOPS_Ratio", f"{NKI}.score"),
    ],
)  # fmt: skip
def test_each_alteration_of_a_device_record_is_found(
    device: Record, path: str, value: Any, where: str
) -> None:
    put(device, path, value)
    problems = validate(device)
    assert at(problems, where), "\n".join(map(str, problems))


def test_a_prompt_that_fails_scores_nothing(device: Record) -> None:
    top_k = device["per_prompt_results"][0]["nki"]["accuracy"]["top_k"][0]
    top_k |= {"worst_relative_error": 1.0, "passed": False}
    top_k["fraction_of_tolerance"] = 1.0 / top_k["allowed_relative_error"]
    put(device, f"{ACCURACY}.passed", False)
    (problem,) = at(validate(device), f"{NKI}.score")
    assert problem.expected == "0.0"


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


def test_every_figure_of_the_schema_is_described() -> None:
    def undescribed(part: Any, path: str) -> list[str]:
        if not isinstance(part, dict):
            return []
        missing = []
        for name, declared in part.get("properties", {}).items():
            where = f"{path}.{name}"
            if not ({"description", "$ref"} & declared.keys()):
                missing.append(where)
            missing += undescribed(declared, where)
        return missing + undescribed(part.get("items"), f"{path}[]")

    parts = {"": schema(), **schema()["$defs"]}
    assert [m for name, part in parts.items() for m in undescribed(part, name)] == []


def test_loading_validates(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, record)
    assert load_record(path) == record
    put(record, "summary.accuracy", 0.5)
    put(record, "team", delete)
    write_json(path, record)
    with pytest.raises(RecordError, match=r"2 problem\(s\)") as raised:
        load_record(path)
    text = str(raised.value)
    assert str(path) in text and "summary.accuracy" in text and "team: required" in text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "not valid JSON"),
        (b'{"schema_version": "1.0", "summary": {"accu', "truncated"),
        (b"\x00\x01\x02\xff", "not UTF-8"),
        (b'{"summary": {"accuracy": NaN}}', "NaN"),
        (b'{"a": 1, "a": 2}', "twice"),
    ],
)
def test_files_that_are_no_json_are_one_problem(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    (problem,) = validate_file(path)
    assert found in problem.found and str(path) in problem.found
    with pytest.raises(RecordError):
        load_record(path)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "text", [], [1, 2], {}, {"per_prompt_results": 7}, {"per_prompt_results": [3, []]},
        {"per_prompt_results": [{"prompt_id": None, "nki": 5, "baseline": {"host_time": []}}]},
        {"summary": [], "absent": [{"key": 3}, {"key": "[*][*]..a"}, "x"]},
        {"score_baselines": {"per_prompt": [{"prompt_id": 0}]}, "scoring_formula": 4},
        {"nki_kernels_implemented": {"a": 1}, "provenance": {"config": [], "config_sha256": 1}},
        {"x": 10**400}, nested(40), nested(900), {"a": {"b": nested(5000)}},
    ],
)  # fmt: skip
def test_no_value_breaks_the_validator(value: Any) -> None:
    assert validate(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3)
    ),
    max_leaves=8,
)


def paths_of(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = [(*prefix, key) for key, _ in items]
    return found + [p for key, part in items for p in paths_of(part, (*prefix, key))]


@settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data(), on_device=st.booleans())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_single_replacement_breaks_the_validator(
    record: Record, device: Record, data: st.DataObject, on_device: bool
) -> None:
    altered = copy.deepcopy(device if on_device else record)
    path = data.draw(st.sampled_from(paths_of(altered)))
    place: Any = altered
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(JSON)
    assert isinstance(validate(altered), list)


def test_finding_values_by_path() -> None:
    value = {"a": [{"b": 1, "c": True}, {"b": float("nan")}]}
    assert lookup(value, "a[0].b") == 1 and lookup(value, "a[5].b") is None
    assert lookup(value, "a.b") is None and lookup(value, "") == value
    assert number(value, "a[0].c") is None and number(value, "a[1].b") is None
    assert list(expand(value, "a[*].b")) == ["a[0].b", "a[1].b"]
    assert list(expand(value, "z[*].b")) == []


def test_values_are_shown_short() -> None:
    assert shown(None) == "nothing" and shown({"a": 1}) == "an object of 1 keys"
    assert len(shown("x" * 1000)) == 80


@pytest.mark.parametrize(("depth", "deeper"), [(3, False), (4, True), (5000, True)])
def test_depth(depth: int, deeper: bool) -> None:
    assert is_deeper_than(nested(depth), 3) is deeper


def test_problems_read_as_a_sentence() -> None:
    problem = Problem("a.b", "totals add up", "3", "4")
    assert str(problem) == "a.b: totals add up: expected 3, found 4"
