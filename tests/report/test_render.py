from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sample_record import device_record, simulator_record

from evaluation.files import FileError, sha256_file, write_json
from evaluation.records import validate
from report.captions import captions
from report.fields import MissingValue
from report.figures import FIGURES
from report.numbers import without_notes
from report.render import REPORT_DIR, TEMPLATE, render, render_file
from report.tex import UntypesettableText, escape

FIGURE_PATHS = {name: f"figures/{name}.pdf" for name in FIGURES}

# Digits that the template may hold: names, notation and layout. The rest is the record's.
STRUCTURAL = (
    r"Qwen3(-30B-A3B)?",
    r"\b(FP32|BF16|SHA-256)\b",
    r"\b99th percentile\b|\bp99\b",
    r"\b128 partitions\b",
    r"\\cite\{[^}]*\}",
    r"\\multicolumn\{\d\}",
    r"\\cmidrule\(\w+\)\{\d-\d?\}",
    r"\\hsize=\d\.\d+",
    r"\\hspace\{\d+pt\}",
    r"\\addlinespace\[\d+pt\]",
    r"\\setlength\{\\tabcolsep\}\{\d+(\.\d+)?pt\}",
    r"\$[LT]_0\$",
    r"\\frac1H|\^2|\^\{-1/2\}|\$1/H\$|1\+e\^|i_1",
)


def one_line(source: str) -> str:
    return re.sub(r"\s+", " ", source)


def source_of(record: dict[str, Any]) -> str:
    return render(record, FIGURE_PATHS)[0]


def rendered(record: dict[str, Any]) -> str:
    return one_line(source_of(record))


def unhashed(source: str) -> str:
    """The source without its hashes, among them the record's own, which every change moves."""
    return re.sub(r"\b[0-9a-f]{12,64}\b", "", source)


def keys(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path to a member of an object in a JSON value, the first elements of lists only."""
    if isinstance(value, dict):
        return [(*path, key) for key in value] + [
            p for k, v in value.items() for p in keys(v, (*path, k))
        ]
    return keys(value[0], (*path, 0)) if isinstance(value, list) and value else []


def without(value: Any, path: tuple[str | int, ...]) -> Any:
    """A JSON value that lacks the member at `path` and shares everything else with `value`."""
    changed = copy.copy(value)
    if path[1:]:
        changed[path[0]] = without(value[path[0]], path[1:])
    else:
        del changed[path[0]]
    return changed


def test_samples_are_valid_records(record: dict[str, Any]) -> None:
    assert validate(record) == []


def test_every_kind_of_record_renders(record: dict[str, Any]) -> None:
    source = source_of(record)
    assert source.rstrip().endswith(r"\end{document}")
    assert "((" not in source.replace("((-", "")


def test_no_number_is_typed_in_the_template() -> None:
    body = (REPORT_DIR / TEMPLATE).read_text().split(r"\begin{document}")[1]
    body = re.sub(r"\(\(\(.*?\)\)\)|\(\(\*.*?\*\)\)|\(\(#.*?#\)\)", "", body, flags=re.S)
    for pattern in STRUCTURAL:
        body = re.sub(pattern, "", body)
    assert re.findall(r".{0,40}\d+.{0,20}", body) == []


def test_a_build_without_device_says_so_and_shows_no_score() -> None:
    text = rendered(simulator_record())
    assert "No Trainium device took part" in text
    assert "no measured Trainium latency" in text
    assert "The total score is" not in text
    for reason in {entry["reason"] for entry in simulator_record()["absent"]}:
        assert rf"\emph{{{escape(reason)}}}" in text


def test_a_device_build_shows_scores_and_no_host_time() -> None:
    record = device_record()
    text = rendered(record)
    assert "No Trainium device" not in text
    assert f"The total score is \\num{{{record['summary']['nki_total_score']:.2f}}}" in text
    assert "5}~prompts gained and none lost" in text
    assert "simulate" not in text


def test_a_slower_build_admits_it() -> None:
    text = rendered(device_record(0.9))
    assert r"no prompt gained and \num{5} of \num{5} lost" in text
    assert "Slower or lower-scoring than the baseline: Twelve Days of Christmas" in text


def test_failing_prompts_are_named() -> None:
    text = rendered(simulator_record((1, 3)))
    assert r"Accuracy is not met: \num{3} of \num{5}~prompts pass" in text
    assert "Palindrome Detection and Famous Quote fail;" in text
    assert r"\num{2}~positions differ in the chosen token" in text
    assert text.count(r"\textbf{failed}") == 2


@pytest.mark.parametrize(
    ("dirty", "commit", "expected"),
    [
        (False, "a" * 40, "The working tree was clean"),
        (True, "a" * 40, r"held \emph{uncommitted changes}"),
        (None, None, "No commit identifies the sources"),
    ],
)
def test_the_state_of_the_sources_is_told(
    dirty: bool | None, commit: str | None, expected: str
) -> None:
    record = simulator_record()
    record["provenance"] |= {
        "dirty": dirty,
        "commit": commit,
        "commit_absent": "git is not installed",
    }
    text = rendered(record)
    assert expected in text
    assert ("with uncommitted changes" in text) == bool(dirty)


def test_fallbacks_are_listed_with_their_reasons() -> None:
    assert "No call fell back" in rendered(simulator_record())
    record = simulator_record()
    record["fallbacks"] = [{"kernel": "silu", "reason": "x holds 50% too much"}]
    text = rendered(record)
    assert r"\num{1}~fallback to the plain implementation" in text
    assert r"\texttt{silu}, since x holds 50\% too much." in text


def test_a_launch_mismatch_and_an_idle_kernel_are_named() -> None:
    record = simulator_record()
    record["nki_kernels_implemented"][1]["launches"] |= {"prefill": 0, "decode_step": 0}
    text = rendered(record)
    assert r"They \emph{disagree} for SiLU." in text
    assert "Never launched in these runs: SiLU." in text


def test_coverage_is_claimed_as_far_as_it_goes() -> None:
    assert "NKI carries out every matrix product" in rendered(simulator_record())
    record = simulator_record()
    record["per_prompt_results"][0]["nki"]["coverage"]["prefill"]["useful_share"] = 0.9
    text = rendered(record)
    assert r"NKI carries out at least \qty{90.0}{\percent} of those" in text
    assert "every matrix product" not in text


def test_a_check_outside_of_its_tolerance_is_named() -> None:
    assert "All pass the rule, and every kernel was launched" in rendered(simulator_record())
    record = simulator_record()
    record["path_checks"][2]["accuracy"]["passed"] = False
    text = rendered(record)
    assert r"Outside of a tolerance: fused in \texttt{bfloat16}." in text
    assert "All pass the rule" not in text


def test_a_device_tells_which_kernels_it_compiled() -> None:
    text = rendered(device_record())
    assert r"Of these, \num{8} ran on AWS Trainium2" in text
    assert r"runs by the path \emph{rows}, in the hooks of NxD Inference." in text
    assert "Never launched in these runs: QKV (prefill)" in text.replace("{}", "")
    assert "were no part of the model that was timed" in text


def test_the_logit_gap_is_judged_by_the_data() -> None:
    record = simulator_record()
    assert "so no choice hangs on rounding" in rendered(record)
    record["per_prompt_results"][0]["nki"]["accuracy"]["smallest_baseline_gap"] = 1e-6
    assert "does not secure every choice" in rendered(record)


def test_an_unknown_kernel_is_described_by_the_record() -> None:
    record = simulator_record()
    record["nki_kernels_implemented"][0] |= {"kernel": "novel", "description": "Something new"}
    assert "Something new." in rendered(record)


@pytest.mark.parametrize("make", [simulator_record, device_record])
def test_a_missing_value_fails_naming_its_key(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What every change moves, or none, is made once: there are many values.
    monkeypatch.setattr("report.render.to_json", lambda record: "")
    monkeypatch.setattr("report.render.captions", cache(captions))
    monkeypatch.setattr("report.render.separate", lambda source: (without_notes(source), []))
    complete = make()
    reference = source_of(complete)
    needed = 0
    for path in keys(complete):
        try:
            source = source_of(without(complete, path))
        except MissingValue as error:
            assert str(path[-1]) in str(error), path
            needed += 1
        else:
            free = {
                "instructions",
                "shapes",
                "versions",
                "counted_macs",
                "groups",
                "ladders",
            } & set(path)
            optional = path[-1] in (
                "memory_bytes", "neuron_sdk_version", "bfloat16", "modelled", "statistics",
                "host_time", "comparison", "improvement_percent_interval", "score_interval",
            )  # fmt: skip
            assert free or optional or unhashed(source) == unhashed(reference), path
    assert needed > 60


@pytest.mark.parametrize("text", ["Команда", "队", "\N{ROCKET}", "bell\x07"])
def test_text_that_cannot_be_printed_names_its_field(text: str) -> None:
    record = simulator_record()
    record["team"]["members"][1] = text
    with pytest.raises(UntypesettableText, match=r"team\.members\[1\] holds"):
        source_of(record)


def test_the_hash_is_that_of_the_record_file(tmp_path: Path) -> None:
    record_path, tex = tmp_path / "record.json", tmp_path / "report" / "report.tex"
    write_json(record_path, simulator_record())
    render_file(record_path, tex.parent / "figures", tex, tex.with_suffix(".numbers.json"))
    assert f"RecordSHA256={{{sha256_file(record_path)}}}" in tex.read_text()
    assert r"\includegraphics[width=\linewidth]{figures/accuracy_margin.pdf}" in tex.read_text()


def test_a_broken_record_leaves_the_old_source(tmp_path: Path) -> None:
    tex = tmp_path / "report.tex"
    tex.write_text("old")
    (tmp_path / "record.json").write_text('{"schema_version": ')
    with pytest.raises(FileError, match=r"record\.json: not valid JSON"):
        render_file(tmp_path / "record.json", tmp_path / "figures", tex, tmp_path / "n.json")
    assert tex.read_text() == "old"
