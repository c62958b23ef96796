"""A number of the report is found by its digits, and walked on to the record."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from evaluation.explanation import ExplanationError, explain_file
from evaluation.files import sha256_file, write_json
from evaluation.printed import NUMBERS, number_in

from . import result_files


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and the list of a report's numbers."""
    root = tmp_path_factory.mktemp("build")
    (root / "results").mkdir()
    record = root / "results" / "benchmark_results.json"
    write_json(record, result_files.make(root / "results").record())
    numbers = [
        entry("5.0", "Abstract", "summary.prompts_total"),
        entry("0.25", "Table 2", "summary.prompts_passed"),
        entry("0.25", "Table 3", "summary.prompts_passed"),
        entry("7", "Table 1", "summary.prompts_total", "2 + summary.prompts_total"),
        entry("7", "Results", "summary.tokens_equal"),
        entry("42", "Results", "summary.prompts_total")
        | {"keys": ["summary.prompts_total", "summary.prompts_passed"]},
        entry("1.05", "Traffic", None, "LIMIT of x.py"),
    ]
    write_json(root / NUMBERS, {"record_sha256": sha256_file(record), "numbers": numbers})
    return root


def entry(printed: str, place: str, key: str | None, how: str = "") -> dict[str, Any]:
    keys = [] if key is None else [key]
    rest = {"context": "some words", "line": 3, "how": how or key, "keys": keys}
    return {"printed": printed, "place": place, **rest}


def explained(build: Path, asked: str) -> str:
    return explain_file(asked, build / "results" / "benchmark_results.json", build)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5.17", "5.17"), ("12,498.00", "12498"), ("3.7e-05", "0.000037"), ("+4.4", "4.4"),
        ("-2", "-2"), ("summary.accuracy", None), ("p99_ms", None), ("", None), ("nan", None),
        ("inf", None), ("1.2.3", None),
    ],
)  # fmt: skip
def test_what_counts_as_a_number(text: str, number: str | None) -> None:
    assert number_in(text) == (None if number is None else Decimal(number))


def test_a_number_of_one_thing_is_walked_on(build: Path) -> None:
    once, twice = explained(build, "5"), explained(build, "0.250")
    assert once.startswith("Abstract: some words\n  number   5.0, line 3 of report/")
    assert "\nsummary.prompts_total = " in once and "number of prompts" in once
    assert "Table 2: some words" in twice and "Table 3: some words" in twice
    assert twice.count("\nsummary.prompts_passed = ") == 1


def test_a_number_of_several_keys_tells_of_the_record_once(build: Path) -> None:
    text = explained(build, "42")
    assert "\nsummary.prompts_passed = " in text and "\nsummary.prompts_total = " in text
    assert text.count("\nrecord   made by rule aggregate_results") == 1


def test_a_number_of_several_things_names_them(build: Path) -> None:
    text = explained(build, "7")
    assert "how      2 + summary.prompts_total" in text and "how      summary.tokens_equal" in text
    assert text.endswith("This number stands for several things: explain one of their keys.")


def test_a_limit_of_the_code_ends_there(build: Path) -> None:
    assert explained(build, "1.05").endswith("how      LIMIT of x.py")


def test_what_cannot_be_found_is_told(build: Path, tmp_path: Path) -> None:
    with pytest.raises(ExplanationError, match=r"the report prints no 99\.5"):
        explained(build, "99.5")
    record = build / "results" / "benchmark_results.json"
    with pytest.raises(ExplanationError, match=r"numbers\.json.*listed there when it is built"):
        explain_file("5", record, tmp_path)
    write_json(tmp_path / NUMBERS, {"record_sha256": "0" * 64, "numbers": []})
    with pytest.raises(ExplanationError, match="is of record 000000000000, not of"):
        explain_file("5", record, tmp_path)
