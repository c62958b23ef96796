"""The configuration: what is refused, and how; its documentation; where values go."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, Checkout
from jsonschema import Draft202012Validator

from evaluation.accuracy import CHALLENGE_DIVERGENCE_TOLERANCE, CHALLENGE_TOLERANCES
from report.build import TEX_PACKAGES
from workflow.config import ConfigError, complete, record_of, schema
from workflow.config_table import README, with_table

FILE = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())

REFUSED = {
    # an overlay in YAML: what the message must hold
    "backends: neuron": "backends: unknown key; did you mean backend?",
    "evaluation: {timed_run: 3}": (
        "evaluation.timed_run: unknown key; did you mean evaluation.timed_runs?"
    ),
    "3: 4": "3: unknown key; known: team, backend, platform_target, model, evaluation, neuron",
    "backend: gpu": (
        'backend: expected one of simulator, neuron-simulator, neuron, received "gpu"'
    ),
    "platform_target: trn1": "platform_target: expected one of trn2, trn3",
    "evaluation: {timed_runs: three}": (
        'evaluation.timed_runs: expected a whole number, received "three" (a number without'
    ),
    "evaluation: {timed_runs: 1.0}": "evaluation.timed_runs: expected a whole number",
    "evaluation: {timed_runs: true}": "evaluation.timed_runs: expected a whole number",
    "evaluation: {timed_runs: 0}": "evaluation.timed_runs: 0 is less than the minimum of 1",
    "model: {seed: -1}": "model.seed: -1 is less than",
    "evaluation: {divergence_difference_tolerance: .inf}": (
        "evaluation.divergence_difference_tolerance: expected a finite number"
    ),
    "evaluation: {tolerance_map: {'5': [.nan, 0.1]}}": "evaluation.tolerance_map.5.0: expected",
    "evaluation: {tolerance_map: {'5': [0.1]}}": "evaluation.tolerance_map.5: [0.1] is too short",
    "evaluation: {tolerance_map: {five: [0, 0]}}": (
        "evaluation.tolerance_map.five: unknown key; known are all, and whole numbers"
    ),
    "team:": "team: expected a group of keys, received null",
    "team: {name: 7}": "team.name: expected text, received 7 (put it in quotes)",
    "team: {name: ''}": "team.name: '' ",
    'team: {name: "a\\nb"}': "team.name: expected text on one line",
    "team: {members: Ada}": "team.members: expected a list",
    "team: {email: nobody}": "team.email: expected an address",
    "team: {team_id: 2026-01-01}": "team.team_id: expected text or nothing (null)",
    "model: {repo_id: Qwen/Qwen3-30B-A3B}": "model.revision: missing. A download is pinned",
    "model: {repo_id: Qwen/Qwen3-30B-A3B, revision: main}": (
        "model.revision: expected a commit of 40"
    ),
    f"model: {{revision: {'0a' * 20}}}": "model.revision: given without model.repo_id",
    f"model: {{repo_id: ../x, revision: {'0a' * 20}}}": "model.repo_id: expected owner/name",
    "model: {path: /tmp/model}": "model.path: expected results/model or",
    "model: {path: results/models/../../x}": "model.path: expected results/model or",
    "model: {path: results/compiled}": "model.path: expected results/model or",
    "evaluation: {prompts: config/none.txt}": "evaluation.prompts: there is no file config/none",
    "evaluation: {prompts: config}": "evaluation.prompts: there is no file config",
    "evaluation: {prompts: 'a{b}'}": "evaluation.prompts: expected a path without braces",
    "evaluation: {prompts: --help}": "evaluation.prompts: expected a path without braces",
    'evaluation: {prompts: "a\\0b"}': "evaluation.prompts: expected a path without braces",
    'evaluation: {prompts: "a\\nb"}': "evaluation.prompts: expected a path without braces",
    "evaluation: {prompts: ../..}": "evaluation.prompts: there is no file ../..",
    "evaluation: {prompts: /dev/null/x}": "evaluation.prompts: there is no file /dev/null/x",
    "model: {path: ../../etc}": "model.path: expected results/model or",
    'model: {path: "results/model\\n/x"}': "model.path: expected results/model or",
    'model: {path: "results/models/a\\0"}': "model.path: expected results/model or",
    'neuron: {python: "/bin/sh\\0"}': "neuron.python: expected text on one line",
    "evaluation: {max_new_tokens: 640}": "evaluation.max_new_tokens: 640 leave no room",
    "neuron: {python: /nowhere/python}": "neuron.python: there is no interpreter",
}


@pytest.mark.parametrize("overlay", REFUSED)
def test_a_wrong_configuration_is_refused_with_its_key(overlay: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete(yaml.safe_load(overlay), ROOT)
    assert REFUSED[overlay] in str(caught.value)
    assert str(caught.value).count("\n") == 2, "one problem, framed by where from and where to look"


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        complete({"backend": "gpu", "tema": {}, "evaluation": {"timed_runs": 0}}, ROOT)
    assert all(key in str(caught.value) for key in ("backend:", "tema:", "evaluation.timed_runs:"))


def test_the_defaults_are_the_file() -> None:
    assert complete({}, ROOT) == FILE
    assert complete(FILE, ROOT) == FILE


def test_the_defaults_are_the_challenge_s() -> None:
    evaluation = complete({}, ROOT)["evaluation"]
    assert {k: tuple(v) for k, v in evaluation["tolerance_map"].items()} == CHALLENGE_TOLERANCES
    assert evaluation["divergence_difference_tolerance"] == CHALLENGE_DIVERGENCE_TOLERANCE


def test_a_whole_number_names_a_top_k_as_well_as_text_does() -> None:
    given = {"evaluation": {"tolerance_map": {"all": [0, 0.1], 50: [0, 0.2]}}}
    assert complete(given, ROOT)["evaluation"]["tolerance_map"]["50"] == [0, 0.2]


def test_what_belongs_to_a_result_is_the_same_for_the_same_values() -> None:
    backwards = dict(reversed(list(FILE.items())))
    elsewhere = FILE | {"neuron": {"python": "/bin/sh"}}
    assert record_of(FILE) == record_of(backwards) == record_of(elsewhere)


def test_the_schema_is_one_and_documents_every_key() -> None:
    Draft202012Validator.check_schema(schema())
    pending = [schema()]
    while pending:
        part = pending.pop()
        assert part["additionalProperties"] is False
        for key, declared in part["properties"].items():
            assert declared["description"].endswith("."), key
            if "properties" in declared:
                pending.append(declared)
            else:
                assert "default" in declared and "type" in declared, key
                assert "pattern" not in declared or "x-pattern" in declared, key


def test_the_documented_table_is_the_schema_s() -> None:
    text = README.read_text()
    assert with_table(text) == text, "run: python3 -m workflow.config_table"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "backend=gpu"], "backend: expected one of"),
        (["--config", "colour=red"], "colour: unknown key"),
        (["--config", "evaluation={timed_runs: 2}"], "inside --config key=... all is text"),
        (["--config", "team=me"], "team: expected a group of keys"),
    ],
)  # fmt: skip
def test_snakemake_shows_the_problem_and_no_traceback(
    finished: Checkout, arguments: list[str], message: str
) -> None:
    output = finished.run("--dry-run", *arguments, fails=True)
    assert message in output and "Traceback" not in output


def test_unusable_prompts_stop_the_workflow(finished: Checkout) -> None:
    with finished.changed("config/prompts.txt", lambda text: "\n"):
        output = finished.run("--dry-run", fails=True)
    assert "no prompt in this file" in output and "Traceback" not in output


def test_a_second_file_is_laid_over_the_first(finished: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "quick.yaml"
    other.write_text("evaluation: {timed_runs: 2}\n")
    output = finished.run("--dry-run", "--printshellcmds", "--configfile", str(other))
    assert "--timed-runs=2" in output and "--seed=0" in output and "--max-new-tokens" not in output


HOSTILE = """`touch hacked` $(touch hacked) "$HOME" 'q' {x} {{y}} \\n %s ; & | < > # é 界 \u202e"""


def test_no_name_is_taken_for_a_command(begun: Checkout, tmp_path: Path) -> None:
    team = {"name": HOSTILE, "members": [HOSTILE, "x" * 300]}
    other = tmp_path / "team.yaml"
    other.write_text(yaml.safe_dump({"team": team}))
    begun.run("results/benchmark_results.json", "--configfile", str(other))
    assert not (begun.path / "hacked").exists()
    words = json.loads((begun.path / "logs/aggregate_results.log").read_text())
    received = json.loads(words[words.index("--config") + 1])["team"]
    assert (received["name"], received["members"]) == (HOSTILE, team["members"])


@pytest.mark.parametrize(
    ("team", "message"),
    [
        ({"name": "队"}, "team.name holds '队' (U+961F, CJK UNIFIED IDEOGRAPH-961F)"),
        ({"members": ["Ada", "Жук"]}, "team.members[1] holds 'Ж' (U+0416"),
    ],
)
def test_a_name_that_cannot_be_typeset_stops_before_any_work(
    fresh: Checkout, tmp_path: Path, team: dict[str, object], message: str
) -> None:
    other = tmp_path / "team.yaml"
    other.write_text(yaml.safe_dump({"team": team}, allow_unicode=True))
    output = fresh.run("report/technical_report.pdf", "--configfile", str(other), fails=True)
    assert f"the report cannot be typeset: {message}" in output and "Traceback" not in output
    assert "ask for results/benchmark_results.json" in output
    assert not (fresh.path / "results").exists()


def test_another_model_takes_the_other_rule(finished: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "model.yaml"
    other.write_text(f"model: {{repo_id: Qwen/Qwen3-30B-A3B, revision: {'0a' * 20}}}\n")
    output = finished.run("--dry-run", "--configfile", str(other))
    assert f"Fetching Qwen/Qwen3-30B-A3B at {'0a' * 20} into results/model" in output


def test_a_neuron_backend_without_an_sdk_stops_before_any_work(fresh: Checkout) -> None:
    for backend in ("neuron", "neuron-simulator"):
        output = fresh.run("--config", f"backend={backend}", fails=True)
        assert f"backend {backend} needs the Neuron SDK" in output and "Traceback" not in output
    assert not (fresh.path / "results").exists()


def test_a_missing_latexmk_stops_before_any_work(fresh: Checkout, tmp_path: Path) -> None:
    for tool in ("bash", "sh", "env", "flock", "tee", "dirname", "uname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or os.devnull)
    output = fresh.run(fails=True, PATH=str(tmp_path))
    assert f"apt-get install --no-install-recommends {TEX_PACKAGES}" in output
    assert not (fresh.path / "results").exists()
    fresh.run("results/compiled/nki/manifest.json", PATH=str(tmp_path))
