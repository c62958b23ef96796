"""The whole device flow on the double of NxD Inference, faults included.

What the double cannot prove is listed in docs/neuron.md.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import driver, neuron, neuron_artefact, sdk
from evaluation.scoring import SCORE_COLUMNS
from model import tiny
from model.plan import expected_launches
from model.tiny import write_tiny_checkpoint
from tests.evaluation import neuron_machine

Run = Callable[..., int]
Fault = Callable[[str], None]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tiny_checkpoint(directory)
    return directory


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with SDK 2.29 and a device; what the driver sets for its process is taken back."""
    for name in ("HF_HUB_OFFLINE", "NKI_SIMULATOR", "NEURON_PLATFORM_TARGET_OVERRIDE"):
        monkeypatch.setenv(name, "as before")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.delenv("NXDI_DOUBLE_FAULT", raising=False)
    monkeypatch.chdir(tmp_path)
    with neuron_machine.in_this_process(monkeypatch, tmp_path / "machine"):
        yield


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    def ask(what: str) -> None:
        monkeypatch.setenv("NXDI_DOUBLE_FAULT", what)

    return ask


def words(mode: str, checkpoint: Path, folder: Path, *arguments: str) -> list[str]:
    """A command line for the device: two prompts, 3 tokens, float32 so that equal means equal."""
    prompts = folder / "prompts.txt"
    prompts.write_text("One stone and eight stones.\n\nName the seats.\n", encoding="utf-8")
    task = [mode] if mode == "--compile-only" else ["--mode", mode]
    common = [
        "--backend", "neuron", "--model-path", str(checkpoint), "--torch-dtype", "float32",
        "--compiled-model-path", str(folder / "compiled"), "--tp-degree", "1", "--seq-len", "192",
    ]  # fmt: skip
    if mode != "--compile-only":
        common += ["--max-new-tokens", "3"]
        if "--prompt" not in arguments:
            common += ["--prompts-file", str(prompts)]
    if mode.startswith("evaluate"):
        common += ["--timed-runs", "2"]
        common += [] if "--warmup-runs" in arguments else ["--warmup-runs", "0"]
    return [*task, *common, *arguments]


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Run:
    def start(mode: str, *arguments: str) -> int:
        return driver.main(words(mode, checkpoint, tmp_path, *arguments))

    return start


def artefact_folders(store: Path) -> dict[str, Path]:
    return {path.name.split("-")[0]: path for path in store.iterdir() if path.is_dir()}


# Compiling --------------------------------------------------------------------------------


def test_compiling_leaves_a_keyed_artefact_with_its_graphs(run: Run, tmp_path: Path) -> None:
    assert run("--compile-only", "--enable-nki") == 0
    store = tmp_path / "compiled"
    manifest = json.loads((store / "manifest.json").read_text())
    folder = artefact_folders(store)["nki"]
    assert folder.name == f"nki-{manifest['key'][:12]}"
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert {g["file"] for g in manifest["graphs"]} == {
        f"hlo/{graph}_bk{i}.pb"
        for graph in ("context_encoding_model", "token_generation_model")
        for i in (0, 1)
    }
    assert [g["tokens"] for g in manifest["graphs"]] == [128, 192, 128, 192]
    for graph in manifest["graphs"]:
        assert manifest["files"][graph["file"]]["sha256"] == graph["sha256"]
    assert "model.pt" in manifest["files"] and not (folder / "work").exists()
    inputs = manifest["inputs"]
    assert inputs["sdk"] == neuron_machine.VERSIONS["2.29"]
    assert "model/qwen_with_nki.py" in inputs["model_code"]
    assert inputs["neuron_config"]["blockwise_matmul_config"] == {"use_torch_block_wise": True}


def test_baseline_and_nki_lie_side_by_side(run: Run, tmp_path: Path, fault: Fault) -> None:
    """Switching between them compiles nothing again."""
    assert run("--compile-only", "--enable-nki") == 0
    assert run("--compile-only") == 0
    assert artefact_folders(tmp_path / "compiled").keys() == {"nki", "baseline"}
    fault("compile:raises")
    assert run("--compile-only", "--enable-nki") == 0
    assert json.loads((tmp_path / "compiled/manifest.json").read_text())["variant"] == "nki"


@pytest.mark.parametrize("change, says", [
    (["--seq-len", "128"], "neuron_config: seq_len is 192 there, 128 now"),
    (["--platform-target", "trn3"], "platform_target is trn2 there, trn3 now"),
    (["--fused-qkv"], "neuron_config: fused_qkv is absent there, True now"),
])  # fmt: skip
def test_skip_compile_refuses_what_differs_by_name(
    run: Run, checkpoint: Path, tmp_path: Path, capsys, change: list[str], says: str
) -> None:
    assert run("--compile-only") == 0
    arguments = words("generate", checkpoint, tmp_path, "--prompt", "x", "--skip-compile")
    if change[0] == "--seq-len":
        at = arguments.index("--seq-len")
        arguments[at : at + 2] = []
    assert driver.main([*arguments, *change]) == 1
    assert says in capsys.readouterr().err


def test_skip_compile_refuses_another_sdk(run: Run, monkeypatch, capsys) -> None:
    assert run("--compile-only") == 0
    monkeypatch.setattr(sdk, "version_of", neuron_machine.VERSIONS["2.28"].get)
    assert run("generate", "--prompt", "x", "--skip-compile") == 1
    message = capsys.readouterr().err
    assert "sdk: neuronx-distributed-inference is 0.9.17334 there, 0.8.16251 now" in message


def test_skip_compile_without_an_artefact(run: Run, capsys) -> None:
    assert run("generate", "--prompt", "x", "--skip-compile") == 1
    assert "holds no compiled baseline model; compile first" in capsys.readouterr().err


def test_a_damaged_artefact_is_refused(run: Run, tmp_path: Path, capsys) -> None:
    assert run("--compile-only") == 0
    folder = artefact_folders(tmp_path / "compiled")["baseline"]
    module = next(folder.glob("hlo/*.pb"))
    module.write_bytes(bytes(len(module.read_bytes())))
    assert run("generate", "--prompt", "x", "--skip-compile") == 1
    assert f"hlo/{module.name} was changed since it was compiled" in capsys.readouterr().err


def test_a_foreign_folder_is_left_alone(run: Run, tmp_path: Path, capsys) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "thesis.tex").write_text("x")
    assert run("--compile-only") == 1
    assert "holds no artefact of this program" in capsys.readouterr().err


@pytest.mark.parametrize("what, says", [
    ("compile:raises", "NCC_EVRF066: the compiler refuses the graph"),
    ("compile:disk_full", "the disk is full"),
    ("compile:truncated_hlo", "not an HLO module, perhaps truncated"),
    ("compile:two_modules", "expected one HLO module (*hlo_module*), found model.hlo_module.pb, "
     "other.hlo_module.pb"),
    ("compile:no_module", "expected one HLO module (*hlo_module*), found none"),
    ("compile:no_model", "NxD Inference left no model.pt"),
])  # fmt: skip
def test_a_failed_compilation_leaves_nothing_that_is_taken_for_one(
    run: Run, tmp_path: Path, fault: Fault, capsys, what: str, says: str
) -> None:
    fault(what)
    assert run("--compile-only") == 1
    assert says in capsys.readouterr().err
    assert not list((tmp_path / "compiled").rglob("manifest.json"))
    assert run("generate", "--prompt", "x", "--skip-compile") == 1
    assert "its compilation was interrupted" in capsys.readouterr().err
    fault("")
    assert run("--compile-only") == 0


def test_two_compilations_of_one_artefact_do_not_meet(run: Run, tmp_path: Path, capsys) -> None:
    assert run("--compile-only") == 0
    folder = artefact_folders(tmp_path / "compiled")["baseline"]
    (folder / "manifest.json").unlink()
    with neuron_artefact._locked(folder):
        assert run("--compile-only") == 1
    assert "another process is compiling this artefact" in capsys.readouterr().err


# Running ----------------------------------------------------------------------------------


def test_generate(run: Run, capsys) -> None:
    assert run("generate", "--enable-nki", "--prompt", "What is it?") == 0
    nki = capsys.readouterr().out
    assert run("generate", "--prompt", "What is it?") == 0
    assert capsys.readouterr().out == nki and "Output: " in nki


def test_evaluating_all_prompts(run: Run, tmp_path: Path, capsys) -> None:
    team = ["--team-id", "t1", "--member-id", "m1"]
    assert run("evaluate_all", "--enable-nki", "--output", "results", *team) == 0
    out = capsys.readouterr().out
    assert out.count("PASS") == 2 and "total score" in out and "useful, at least" in out
    evaluation = json.loads(Path("results/nki/prompt_0.json").read_text())
    baseline = json.loads(Path("results/baseline/prompt_0.json").read_text())
    times = evaluation["host_time"]
    assert len(times["end_to_end_s"]) == len(times["context_encoding_s"]) == 2
    assert [len(steps) for steps in times["token_generation_s"]] == [2, 2]
    assert "Trainium" in times["what"]
    assert evaluation["accuracy"]["passed"] and evaluation["tokens"] == baseline["tokens"]
    assert evaluation["mac_ratio"]["challenge_ratio"] == 65536 / (65536 + 65536 + 1248)
    assert baseline["mac_ratio"]["challenge_ratio"] == 0.0
    launches = evaluation["launches"]
    foreign = {"kernels.moe.experts": 1, "kernels.norm.rmsnorm": 1}
    assert foreign.items() <= launches["prefill"].items()
    for phase, named in (("prefill", "prefill"), ("decode_step", "decode")):
        expected = expected_launches(tiny.CONFIG, named, "layered")
        assert expected.items() <= launches[phase].items()
    assert evaluation["fallbacks"] == []
    assert evaluation["device"]["sdk_release"] == "2.29"
    assert "model/qwen_with_nki.py" in evaluation["inputs"]["model_code"]


def test_the_challenge_s_table(run: Run, tmp_path: Path) -> None:
    arguments = ["--prompt-id", "0", "--output", "out/p.json", "--team-id", "t1"]
    arguments += ["--warmup-runs", "1"]
    for _ in range(2):
        assert run("evaluate_single", *arguments) == 0
    with Path("out/t1_qwen3-30b-a3b-trn2_score_records.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 and tuple(rows[0]) == SCORE_COLUMNS
    evaluation = json.loads(Path("out/p.json").read_text())
    assert float(rows[1]["base_latency"]) == 12498
    mean_s = sum(evaluation["host_time"]["end_to_end_s"]) / 2
    assert float(rows[1]["throughput"]) == pytest.approx(192 / mean_s)


def test_inaccuracy_scores_nothing_and_fails(run: Run, monkeypatch, capsys) -> None:
    whole = neuron.Device._with_logits
    disturbed = {"model.qwen_with_nki"}

    def wrong(self: Any, input_ids: torch.Tensor, new_tokens: int) -> Any:
        timed, logits = whole(self, input_ids, new_tokens)
        if type(self._application).__module__ in disturbed:
            logits = logits * 1.2
        return timed, logits

    monkeypatch.setattr(neuron.Device, "_with_logits", wrong)
    assert run("evaluate_single", "--enable-nki", "--prompt-id", "0") == 1
    captured = capsys.readouterr()
    assert "accuracy not reached for prompt 0" in captured.err and "FAIL" in captured.out
    with Path("qwen3-30b-a3b-trn2_qwen_with_nki_score_records.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["accuracy"]) == 0.0 and float(row["final_score"]) == 0.0


def test_validate(run: Run, capsys) -> None:
    assert run("validate", "--prompt", "One stone.", "--prompt", "Two stones.") == 0
    assert capsys.readouterr().out.endswith("PASS\n")


def test_a_failed_evaluation_resumes_behind_what_is_done(
    run: Run, monkeypatch, fault: Fault, capsys
) -> None:
    """The second prompt fails; the next run keeps the first one's file, byte for byte."""
    whole, seen = neuron.Device.generate_timed, []

    def second_fails(self: Any, input_ids: torch.Tensor, new_tokens: int) -> Any:
        seen.append(len(input_ids))
        if len(set(seen)) == 2:
            raise RuntimeError("NRT_EXEC_HW_ERR: the device reports an error")
        return whole(self, input_ids, new_tokens)

    monkeypatch.setattr(neuron.Device, "generate_timed", second_fails)
    assert run("evaluate_all", "--output", "results") == 1
    assert "NRT_EXEC_HW_ERR" in capsys.readouterr().err
    assert not Path("results/baseline/prompt_1.json").exists()
    first = Path("results/baseline/prompt_0.json").read_bytes()
    monkeypatch.setattr(neuron.Device, "generate_timed", whole)
    assert run("evaluate_all", "--output", "results", "--resume") == 0
    assert Path("results/baseline/prompt_0.json").read_bytes() == first
    assert Path("results/baseline/prompt_1.json").exists()


def test_teacher_forcing_restarts_behind_each_other_token(checkpoint: Path, tmp_path: Path) -> None:
    arguments = neuron.configuration({"tp_degree": 1}, 192, 1, "float32")
    application = neuron.build("baseline", checkpoint, arguments)
    neuron.compile_model(application, tmp_path / "c", debug=False)
    device = neuron.load_model(application, tmp_path / "c", checkpoint, skip_warmup=True)
    prompt = torch.arange(100, 110)
    free = device.generate(prompt, 6)
    forced = torch.from_numpy(free.tokens.copy())
    forced[2] += 1
    found = device.generate(prompt, 6, forced)
    assert found.tokens[:3].tolist() == free.tokens[:3].tolist()
    for step in range(6):
        alone = device.generate(torch.cat([prompt, forced[:step]]), 1)
        assert abs(found.logits[step] - alone.logits[0]).max() < 1e-3
        assert found.tokens[step] == alone.tokens[0]


def test_a_model_that_returns_no_logits_is_told(run: Run, capsys) -> None:
    assert run("evaluate_single", "--prompt-id", "0", "--on-device-sampling") == 1
    assert "must be compiled with output_logits" in capsys.readouterr().err


def test_flags_that_are_not_driven_are_refused(run: Run, capsys) -> None:
    assert run("generate", "--prompt", "x", "--enable-lora") == 1
    assert "--enable-lora: a flag of the challenge's driver whose work" in capsys.readouterr().err


# Processes --------------------------------------------------------------------------------


def test_the_flow_as_a_program(checkpoint: Path, tmp_path: Path) -> None:
    """Baseline and model with kernels in processes of their own, as on a device."""
    variables = neuron_machine.environment(tmp_path / "machine2")
    arguments = words("evaluate_single", checkpoint, tmp_path, "--enable-nki", "--prompt-id", "1")
    done = neuron_machine.start(arguments, variables, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PASS") == 1 and "reference" in done.stderr
    assert artefact_folders(tmp_path / "compiled").keys() == {"nki", "baseline"}


def test_a_compilation_that_dies_and_one_that_hangs(checkpoint: Path, tmp_path: Path) -> None:
    arguments = words("--compile-only", checkpoint, tmp_path)
    variables = neuron_machine.environment(tmp_path / "machine2", NXDI_DOUBLE_FAULT="compile:dies")
    assert neuron_machine.start(arguments, variables, tmp_path).returncode == 77
    variables["NXDI_DOUBLE_FAULT"] = "compile:hangs"
    hung = neuron_machine.start([*arguments, "--time-limit-s", "8"], variables, tmp_path)
    assert hung.returncode == 1 and "not done after 8 s" in hung.stderr
    assert not list((tmp_path / "compiled").rglob("manifest.json"))
    variables["NXDI_DOUBLE_FAULT"] = ""
    assert neuron_machine.start(arguments, variables, tmp_path).returncode == 0


def test_an_interrupt_while_the_device_runs(checkpoint: Path, tmp_path: Path) -> None:
    variables = neuron_machine.environment(
        tmp_path / "machine2", NXDI_DOUBLE_FAULT="generate:hangs"
    )
    arguments = words("generate", checkpoint, tmp_path, "--prompt", "x")
    process = subprocess.Popen(
        [sys.executable, str(neuron_machine.ROOT / "main.py"), *arguments],
        cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and "hanging" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "main.py: interrupted" in err and "Traceback" not in err
