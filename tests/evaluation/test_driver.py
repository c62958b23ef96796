"""The modes of main.py on models that the tests make: what is run, shown, written and returned."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from evaluation import driver, session
from evaluation.console import Progress, table
from model import manifest
from model.baseline import load as load_baseline
from model.tiny import write_tiny_checkpoint


class Perturbed:
    """The baseline with another loading time, an error on its logits, and a count of its runs."""

    def __init__(self, model_path: Path, dtype: str, error: float) -> None:
        self._model = load_baseline(model_path, dtype)
        self._error = error
        self.prefills = 0

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        self.prefills += 1
        return self._perturb(self._model.prefill(input_ids, capacity))

    def decode(self, token: int) -> torch.Tensor:
        return self._perturb(self._model.decode(token))

    def hidden_states(self, input_ids: torch.Tensor, token: int) -> torch.Tensor:
        return self._model.hidden_states(input_ids, token)

    def _perturb(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + self._error * torch.cos(torch.arange(len(logits)))


class Loader:
    """Stands in for `load_model` and keeps what it made, in order."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.loaded: list[tuple[str, Perturbed]] = []

    def __call__(self, variant: str, model_path: Path, dtype: str, kernels: str) -> Perturbed:
        model = Perturbed(model_path, dtype, self.error if variant == "nki" else 0.0)
        self.loaded.append((variant, model))
        return model

    @property
    def runs(self) -> Counter[str]:
        runs: Counter[str] = Counter()
        for variant, model in self.loaded:
            runs[variant] += model.prefills
        return runs


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads only get into each other's way at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tiny_checkpoint(directory)
    return directory


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("One stone and eight stones.\n\nName the seats.\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is traced or expected: the models here have none."""
    monkeypatch.setattr("evaluation.artefact.traces_of", lambda architecture: [])
    monkeypatch.setattr("model.plan.expected_launches", lambda config, phase, path: {})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what the driver sets for its process."""
    for name in ("HF_HUB_OFFLINE", "NKI_SIMULATOR", "NEURON_PLATFORM_TARGET_OVERRIDE"):
        monkeypatch.setenv(name, "as before")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")


Run = Callable[..., int]


@pytest.fixture
def run(checkpoint: Path, prompts_file: Path, tmp_path: Path) -> Run:
    """Return a function that runs a mode on the tiny checkpoint, 4 tokens and one timed run."""

    def start(mode: str, *arguments: str, loader: Loader | None = None, tokens: int = 4) -> int:
        task = [mode] if mode == "--compile-only" else ["--mode", mode]
        common = [
            "--model-path", str(checkpoint), "--max-new-tokens", str(tokens),
            "--compiled-model-path", str(tmp_path / "compiled"),
        ]  # fmt: skip
        if "--prompt" not in arguments:
            common += ["--prompts-file", str(prompts_file)]
        if mode.startswith("evaluate"):
            common += ["--timed-runs", "1", "--warmup-runs", "0"]
        return driver.main([*task, *common, *arguments], loader or Loader())

    return start


def test_generate_prints_prompt_and_output(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--prompt", "Hello there", "--prompt", "And you") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Prompt: Hello there\nOutput: ") and "Prompt: And you\nOutput: " in out
    assert err.startswith("loading the baseline model\n") and "loading" not in out


def test_generate_without_a_prompt_takes_the_challenges(run: Run, capsys, prompts_file) -> None:
    assert run("generate") == 0
    assert session.DEFAULT_PROMPT in capsys.readouterr().out
    assert run("generate", "--prompt-id", "1") == 0
    assert "Name the seats." in capsys.readouterr().out


def test_text_ends_where_the_checkpoint_says(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert driver._until_end([1, 2, 9, 4, 7], tmp_path) == [1, 2]
    assert driver._until_end([1, 2], tmp_path) == [1, 2]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert driver._until_end([1, 2], tmp_path) == [1]


def test_quiet_is_quiet(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--prompt", "x", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_validate_passes_and_tells_margins(run: Run, capsys) -> None:
    loader = Loader(error=1e-4)
    assert run("validate", loader=loader) == 0
    out, _err = capsys.readouterr()
    assert out.rstrip().endswith("PASS") and "top-all" in out and "4/4" in out
    assert loader.runs == {"baseline": 2, "nki": 2}  # two prompts, once each


def test_validate_fails_beyond_the_tolerance(run: Run, capsys) -> None:
    assert run("validate", "--prompt", "Hello", loader=Loader(error=3.0)) == 1
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("FAIL")
    assert "main.py: accuracy not reached for prompt 0" in err and "Traceback" not in err


def test_the_tolerances_given_are_used(run: Run, capsys) -> None:
    loose = ["--tol-map", "{None: (1e9, 1.0)}", "--divergence-difference-tol", "1e9"]
    assert run("validate", *loose, loader=Loader(error=3.0)) == 0
    strict = ["--tol-map", '{"5": [0, 1e-12]}']
    assert run("validate", *strict, loader=Loader(error=1e-3)) == 1


def test_validate_checks_as_many_tokens_as_asked(run: Run, capsys) -> None:
    assert run("validate", "--num-tokens-to-check", "2") == 0
    assert "2/2" in capsys.readouterr().out


def test_evaluate_single_of_the_baseline(run: Run, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out" / "prompt_1.json"
    assert run("evaluate_single", "--prompt-id", "1", "--output", str(output)) == 0
    written = json.loads(output.read_text())
    assert (written["variant"], written["prompt"]["id"]) == ("baseline", 1)
    assert len(written["host_time"]["end_to_end_s"]) == 1 and "accuracy" not in written
    assert output.with_suffix(".npz").is_file()
    out = capsys.readouterr().out
    assert "no Trainium latency" in out and "No score" in out and "9432.19 ms" in out


def test_evaluate_single_of_nki_runs_the_baseline_it_needs(run: Run, tmp_path, capsys) -> None:
    output, loader = tmp_path / "nki.json", Loader(error=1e-4)
    arguments = ["--enable-nki", "--prompt", "Hi", "--output", str(output)]
    assert run("evaluate_single", *arguments, loader=loader) == 0
    assert json.loads(output.read_text())["accuracy"]["passed"] is True
    assert [variant for variant, _ in loader.loaded] == ["baseline", "nki"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compiled", "nki.json", "prompts.txt"]


def test_evaluate_single_uses_the_baseline_it_is_given(run: Run, tmp_path, capsys) -> None:
    baseline, loader = tmp_path / "baseline", Loader(error=1e-4)
    one = ["--prompt-id", "0"]
    assert run("evaluate_single", *one, "--output", str(baseline / "prompt_0.json")) == 0
    nki = ["--enable-nki", "--baseline-path", str(baseline)]
    assert run("evaluate_single", *one, *nki, loader=loader) == 0
    assert [variant for variant, _ in loader.loaded] == ["nki"]
    assert run("evaluate_single", "--prompt-id", "1", *nki) == 1
    assert "evaluate the baseline of prompt 1 again" in capsys.readouterr().err


def test_inaccuracy_is_written_shown_and_fails(run: Run, tmp_path, capsys) -> None:
    output = tmp_path / "nki.json"
    arguments = ["--enable-nki", "--prompt-id", "0", "--output", str(output)]
    assert run("evaluate_single", *arguments, loader=Loader(error=3.0)) == 1
    assert json.loads(output.read_text())["accuracy"]["passed"] is False
    out, err = capsys.readouterr()
    assert "FAIL" in out and "accuracy not reached for prompt 0" in err


def test_evaluate_all_writes_and_resumes(run: Run, tmp_path, capsys) -> None:
    results = tmp_path / "results"
    arguments = ["--enable-nki", "--output", str(results), "--resume"]
    first, second, third = Loader(1e-4), Loader(1e-4), Loader(1e-4)
    assert run("evaluate_all", *arguments, loader=first) == 0
    files = sorted(p.relative_to(results).as_posix() for p in results.rglob("*.*"))
    assert files == [
        "baseline/prompt_0.json", "baseline/prompt_0.npz", "baseline/prompt_1.json",
        "baseline/prompt_1.npz", "nki/prompt_0.json", "nki/prompt_1.json",
    ]  # fmt: skip
    assert run("evaluate_all", *arguments, loader=second) == 0
    assert second.loaded == []
    (results / "nki" / "prompt_1.json").write_text("{")
    assert run("evaluate_all", *arguments, loader=third) == 0
    assert [variant for variant, _ in third.loaded] == ["nki"]
    assert run("evaluate_all", *arguments, loader=third, tokens=5) == 0  # other settings
    assert [variant for variant, _ in third.loaded] == ["nki", "baseline", "nki"]


def test_resume_minds_the_rule(run: Run, tmp_path, capsys) -> None:
    arguments = ["--enable-nki", "--output", str(tmp_path / "results"), "--resume"]
    loader = Loader(error=1e-3)
    assert run("evaluate_all", *arguments) == 0
    assert run("evaluate_all", *arguments, "--tol-map", '{"5": [0, 1e-12]}', loader=loader) == 1
    assert [variant for variant, _ in loader.loaded] == ["nki"]


def test_fallbacks_are_told_with_their_reason(run: Run, capsys) -> None:
    from model import dispatch

    class FallingBack(Loader):
        def __call__(self, variant: str, model_path: Path, dtype: str, kernels: str) -> Perturbed:
            model = super().__call__(variant, model_path, dtype, kernels)
            model.prefill = self.without_kernel(model.prefill)  # type: ignore[method-assign]
            return model

        @staticmethod
        def without_kernel(prefill):
            def call(input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
                dispatch.record_fallback("silu", "three rows too many")
                return prefill(input_ids, capacity)

            return call

    told = "No kernel ran for silu, but plain torch: three rows too many"
    dispatch.forget_fallbacks()
    try:
        for mode, *more in (["validate"], ["evaluate_all", "--enable-nki"]):
            assert run(mode, *more, loader=FallingBack()) == 0
            assert capsys.readouterr().out.count(told) == 1
    finally:
        dispatch.forget_fallbacks()


def test_team_and_given_baseline_are_shown(run: Run, capsys) -> None:
    given = ["--base-latency", "9000", "--base-throughput", "70", "--team-id", "t", "--prompt", "x"]
    assert run("evaluate_single", *given) == 0
    out = capsys.readouterr().out
    assert "9000 ms and 70 tok/s (from the command line)" in out and "team t" in out


def test_compiling_and_reusing(run: Run, tmp_path: Path, capsys, monkeypatch) -> None:
    manifest = tmp_path / "compiled" / "manifest.json"
    assert run("generate", "--skip-compile", "--prompt", "x") == 1
    assert "compile first" in capsys.readouterr().err
    assert run("--compile-only") == 0
    assert json.loads(manifest.read_text())["key"] in capsys.readouterr().out
    assert run("generate", "--skip-compile", "True", "--prompt", "x") == 0
    assert run("generate", "--skip-compile", "--prompt", "x", "--enable-nki") == 1
    assert "variant is baseline there, nki now" in capsys.readouterr().err
    assert run("generate", "--prompt", "x", "--enable-nki") == 0  # ours, of the other variant
    assert json.loads(manifest.read_text())["variant"] == "nki"
    stamp = manifest.stat().st_mtime_ns
    assert run("generate", "--prompt", "x", "--enable-nki") == 0
    assert manifest.stat().st_mtime_ns == stamp


def test_a_foreign_folder_is_left_alone(run: Run, tmp_path: Path, capsys) -> None:
    foreign = tmp_path / "compiled"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"name": "somebody else\'s"}')
    assert run("--compile-only") == 1
    assert "holds no artefact of this program" in capsys.readouterr().err
    assert "somebody" in (foreign / "manifest.json").read_text()
    (foreign / "manifest.json").unlink()
    assert run("--compile-only") == 0


@pytest.mark.parametrize("backend, lacks", [
    ("neuron", "the package torch-neuronx, "),
    ("neuron-simulator", "test_nki_kernels.py --backend neuron-simulator (this machine lacks"),
])  # fmt: skip
def test_backends_that_cannot_run_here(run: Run, backend, lacks, tmp_path, capsys) -> None:
    assert run("generate", "--backend", backend, "--prompt", "x") == 1
    message = capsys.readouterr().err
    assert "Nothing was run" in message and lacks in message
    assert not (tmp_path / "compiled").exists()


def test_what_cannot_be_run_is_said_before_any_work(run: Run, tmp_path, capsys) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    long = "word " * 700
    for arguments, says in (
        (["generate", "--prompt-id", "2"], "holds 2 prompts, 0 to 1"),
        (["generate", "--prompt", long], "tokens; with sequence_length 640"),
        (["evaluate_single", "--prompt-id", "0", "--output", str(folder)], "writes a file"),
        (["evaluate_all", "--output", str(tmp_path / "prompts.txt")], "writes a folder"),
    ):
        loader = Loader()
        assert run(*arguments, loader=loader) == 1
        message = capsys.readouterr().err
        assert says in message and "Traceback" not in message
        assert loader.loaded == [] and not (tmp_path / "compiled").exists()


def test_a_missing_model_is_one_message(tmp_path: Path, capsys) -> None:
    arguments = ["--mode", "generate", "--compiled-model-path", "c", "--model-path"]
    assert driver.main([*arguments, str(tmp_path / "absent")]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "no Hugging Face checkpoint" in message and "./run" in message


def failing(error: BaseException) -> Callable[..., Perturbed]:
    def load(variant: str, model_path: Path, dtype: str, kernels: str) -> Perturbed:
        raise error

    return load


def test_failures_end_in_one_message(run: Run, capsys) -> None:
    foreseen = failing(driver.DriverError("the disk is made of cheese"))
    assert run("generate", "--prompt", "x", "--quiet", loader=foreseen) == 1
    assert capsys.readouterr().err == "main.py: the disk is made of cheese\n"
    bug = failing(TypeError("unlikely"))
    assert run("generate", "--prompt", "x", "--quiet", loader=bug) == 1
    assert capsys.readouterr().err == "main.py: TypeError: unlikely; --verbose shows where\n"
    assert run("generate", "--prompt", "x", "--verbose", loader=bug) == 1
    assert "Traceback" in capsys.readouterr().err
    absent = failing(ModuleNotFoundError("No module named 'torch'"))
    assert run("generate", "--prompt", "x", loader=absent) == 1
    assert "./run setup" in capsys.readouterr().err


def test_an_interrupt_is_130(run: Run, capsys) -> None:
    assert run("generate", "--prompt", "x", loader=failing(KeyboardInterrupt())) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_process_stays_offline(run: Run, monkeypatch, capsys) -> None:
    import os

    assert run("generate", "--prompt", "x", "--platform-target", "trn3") == 0
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn3"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_steps_are_told_every_two_seconds() -> None:
    stream, now_s = io.StringIO(), [0.0]
    progress = Progress(stream, clock=lambda: now_s[0])
    with progress.part("prompt 1 of 2"):
        progress("timed run 1/3")
        for step in range(1, 6):
            now_s[0] += 0.9
            progress.step("decode step", step, 5)
        progress("timed run 2/3")
        now_s[0] += 0.1
        progress("timed run 3/3")
    assert stream.getvalue().splitlines() == [
        "prompt 1 of 2, timed run 1/3",
        "prompt 1 of 2, timed run 1/3, decode step 3/5",
        "prompt 1 of 2, timed run 2/3",
    ]


def test_a_terminal_gets_one_line() -> None:
    stream = Terminal()
    progress = Progress(stream, clock=lambda: 0.0)
    with progress.part("a"):
        progress("b")
        progress("c")
    progress.clear()
    progress.clear()
    assert stream.getvalue() == "\r\x1b[Ka, b\r\x1b[Ka, c\r\x1b[K"


def test_tables_are_aligned() -> None:
    assert table(["a", "bb"], [["long", "1"], ["x", "100"]]).splitlines() == [
        "a      bb", "----  ---", "long    1", "x     100",
    ]  # fmt: skip


def test_a_checkpoint_that_differs_from_its_manifest_is_refused(
    run: Run, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.json"
    listing = manifest.write_manifest(checkpoint, path, {"kind": "tiny"})
    asked = ("generate", "--prompt", "x", "--model-manifest", str(path))
    assert run(*asked) == 0
    config = {**listing["files"]["config.json"], "sha256": "0" * 64}
    entries = {**listing["files"], "config.json": config}
    manifest.write_manifest(checkpoint, path, {"kind": "tiny"}, entries)
    assert run(*asked) == 1
    assert "is not the checkpoint of its manifest: config.json" in capsys.readouterr().err
