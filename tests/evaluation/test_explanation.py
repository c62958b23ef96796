"""Every number of a record is walked back to files, rules and functions that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evaluation.derivations import DERIVATIONS, derivation, names
from evaluation.driver import main
from evaluation.explanation import ExplanationError, explain, explain_file, location, meaning
from evaluation.files import read_json, write_json
from evaluation.problems import expand, lookup, walk

from . import result_files

ROOT = Path(__file__).resolve().parents[2]
RULES = "\n".join(file.read_text() for file in sorted((ROOT / "workflow/rules").glob("*.smk")))

Record = dict[str, Any]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/ in it, the record among them."""
    root = tmp_path_factory.mktemp("build")
    (root / "results").mkdir()
    results = result_files.make(root / "results")
    write_json(root / "results" / "benchmark_results.json", results.record())
    return root


@pytest.fixture(scope="module")
def records(build: Path) -> dict[str, Record]:
    simulated = read_json(build / "results" / "benchmark_results.json")
    return {"simulator": simulated, "neuron": result_files.on_a_device(simulated)}


def figures(record: Record) -> list[str]:
    return [p for p, value in walk(record) if p and not isinstance(value, (dict, list))]


@pytest.mark.parametrize("backend", ["simulator", "neuron"])
def test_every_figure_has_a_derivation_whose_parts_exist(
    records: dict[str, Record], backend: str
) -> None:
    record = records[backend]
    files = record["provenance"]["results"]
    for key in figures(record):
        found = derivation(key)
        assert found is not None, f"{key}: no row of evaluation.derivations"
        row, filled = found[0], names(record, found[1])
        for pattern in row.inputs:
            place = pattern.format(**filled).removesuffix(".*")
            assert any(lookup(record, path) is not None for path in expand(record, place)), (
                f"{key}: derives from {place}, which is not there"
            )
        if row.source is not None:
            assert row.source.file.format(**filled) in files, key


def test_functions_and_rules_of_the_table_exist() -> None:
    for row in DERIVATIONS:
        if row.code:
            file = location(row.code).split(" ")[0].split(":")[0]
            assert (ROOT / file).is_file(), row
        if row.source is not None and "{" not in row.source.rule:
            assert f"rule {row.source.rule}:" in RULES, row
    for rule in ("evaluate_baseline", "evaluate_nki", "check_path", "aggregate_results"):
        assert f"rule {rule}:" in RULES


def test_raw_values_of_a_simulated_record_are_those_of_the_files(
    records: dict[str, Record], build: Path
) -> None:
    """What a row calls the place of a value in a result file is where it stands."""
    record, compared = records["simulator"], 0
    for key in figures(record):
        row, found = derivation(key) or pytest.fail(key)
        if row.source is None or "samples_ms" in key:
            continue  # samples stand in seconds there
        filled = names(record, found)
        content = read_json(build / row.source.file.format(**filled))
        there = lookup(content, row.source.key.format(**filled))
        assert there == lookup(record, key), f"{key}: {row.source}"
        compared += 1
    assert compared > 500
    for key in ("baseline.host_time.samples_ms", "nki.host_time.context_encoding_samples_ms"):
        row, found = derivation(f"per_prompt_results[1].{key}[2]") or pytest.fail(key)
        assert row.source is not None
        filled = names(record, found)
        content = read_json(build / row.source.file.format(**filled))
        seconds = lookup(content, row.source.key.format(**filled))
        assert [1e3 * s for s in seconds] == lookup(record, f"per_prompt_results[1].{key}")


def test_a_score_is_walked_back_to_samples(records: dict[str, Record], build: Path) -> None:
    text = "\n".join(explain(records["neuron"], "summary.nki_total_score", build))
    for part in (
        "sum of the prompts' scores", "per_prompt_results[1].nki.score = ",
        "accuracy x (base latency / latency)", "99th percentile of the samples",
        "per_prompt_results[1].nki.latency.samples_ms = [", "run_benchmark",
        "results/evaluations/nki/prompt_1.json, host_time.end_to_end_s", "rule     evaluate_nki",
        "score_baselines.per_prompt[1].latency_ms = ", "published (score_baselines.basis)",
        "record   made by rule aggregate_results at ",
    ):  # fmt: skip
        assert part in text, part
    assert re.search(r"code     evaluation/scoring\.py:\d+ score\n", text)
    assert re.search(r"sha256   [0-9a-f]{64}\n", text)
    assert text.count("test_configuration.sequence_length = 640\n") == 1, "explained once"


def test_a_file_that_changed_or_left_is_told(records: dict[str, Record], tmp_path: Path) -> None:
    record, key = records["simulator"], "per_prompt_results[0].nki.host_time.p99_ms"
    assert "here     no such file now" in "\n".join(explain(record, key, tmp_path))
    write_json(tmp_path / "results/evaluations/nki/prompt_0.json", {"host_time": {}})
    text = "\n".join(explain(record, key, tmp_path))
    assert "here     changed since: sha256 " in text
    assert "files of kernels and models, changed since: kernels/" in text
    assert "all as they are here" in "\n".join(explain(record, key, ROOT))


def test_objects_name_what_they_hold_and_absences_their_reason(
    records: dict[str, Record],
) -> None:
    record = records["simulator"]
    assert "  holds    prompt_id, name" in "\n".join(explain(record, "per_prompt_results[0]"))
    assert "  holds    per_prompt_results[0], " in "\n".join(explain(record, "per_prompt_results"))
    first, reason, means = explain(record, "per_prompt_results[1].nki.score")
    assert first.endswith(": absent") and "no Trainium device took part" in reason
    assert "The challenge's score of this prompt." in means


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("summary.acuracy", "near it: summary.accuracy"),
        ("p99_ms", "per_prompt_results[0].baseline.host_time.p99_ms"),
        ("per_prompt_results[9].nki.accuracy.passed", "near it: per_prompt_results[1].nki"),
        ("", "the record holds: schema_version"),
        ("{}[*]..\\x00" * 50, "the record holds: schema_version"),
        ("summary.__class__", "summary"),
    ],
)
def test_an_unknown_key_names_near_ones(records: dict[str, Record], key: str, hint: str) -> None:
    with pytest.raises(ExplanationError) as caught:
        list(explain(records["simulator"], key))
    assert "has no key" in str(caught.value) and hint in str(caught.value)


def test_meanings_follow_references_and_free_keys() -> None:
    assert meaning("per_prompt_results[0].nki.accuracy.top_k[1].k") == (
        "Tokens compared at each position."
    )
    assert meaning("provenance.kernels.kernels/x.py") == "SHA-256 in hexadecimal."
    assert meaning("statistics.totals.nki_total_score_interval[0]") == "One end."
    assert meaning("nowhere.at.all").startswith("The record of one build.")


def test_an_invalid_record_is_not_explained(build: Path, tmp_path: Path) -> None:
    record = read_json(build / "results" / "benchmark_results.json")
    record["summary"]["accuracy"] = 0.5
    write_json(tmp_path / "x.json", record)
    with pytest.raises(ExplanationError, match=r"1 problem\(s\), the first: summary\.accuracy"):
        explain_file("summary.accuracy", tmp_path / "x.json")
    with pytest.raises(ExplanationError, match="cannot be read"):
        explain_file("summary.accuracy", tmp_path / "none.json")


def test_the_command_line(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = str(build / "results" / "benchmark_results.json")
    assert main(["--explain", "summary.accuracy", "--record", record]) == 0
    assert capsys.readouterr().out.startswith("summary.accuracy = 1.0\n  means    Share of prompts")
    assert main(["--explain", "summary.acuracy", "--record", record]) == 1
    assert "near it: summary.accuracy" in capsys.readouterr().err
    assert main(["--explain", "summary.accuracy", "--mode", "generate"]) == 2
    assert "--mode has no effect in --explain" in capsys.readouterr().err
    assert main(["--mode", "doctor", "--record", record]) == 2
    assert "--record has no effect in --mode doctor, only in --explain" in capsys.readouterr().err
