"""main.py as a program: started by its path, from any folder, judged by exit status and output."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.tiny import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "main.py"

# The commands of the submission that this project grew from, as its README gives them.
SEED_COMMANDS = {
    "tests": "python3 test_nki_kernels.py",
    "generate": """python3 main.py \\
    --mode generate \\
    --enable-nki \\
    --model-path ~/qwen-30b-a3b/hf_model \\
    --compiled-model-path ~/qwen-30b-a3b/traced_model \\
    --prompt "What is the capital of France?"
""",
    "evaluate_all": """python3 main.py \\
    --mode evaluate_all \\
    --enable-nki \\
    --model-path ~/qwen-30b-a3b/hf_model \\
    --compiled-model-path ~/qwen-30b-a3b/traced_model \\
    --skip-compile True
""",
}


def start(
    *arguments: str, cwd: Path | None = None, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if home is not None:
        environment["HOME"] = str(home)
    return subprocess.run(
        [sys.executable, str(MAIN), *arguments],
        cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a checkpoint where the seed's README has it."""
    home = tmp_path_factory.mktemp("home")
    model = home / "qwen-30b-a3b" / "hf_model"
    model.mkdir(parents=True)
    write_tiny_checkpoint(model)
    return home


def seed_command(name: str) -> list[str]:
    """Return the arguments of a seed command, its folders below the home folder of the test."""
    words = shlex.split(SEED_COMMANDS[name].replace("\\\n", " "))
    assert words[:2] == ["python3", "main.py"]
    return words[2:]


def test_it_is_short() -> None:
    assert len(MAIN.read_text().splitlines()) <= 40


def test_help_is_quick_to_load_and_complete(tmp_path: Path) -> None:
    run = start("--help", cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == ""
    assert "usage: main.py --mode MODE" in run.stdout and "--tp-degree" in run.stdout


def test_help_loads_neither_torch_nor_the_kernels(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(MAIN)!r}, '--help']\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(MAIN)!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    print('loaded', *[m for m in ('torch', 'transformers', 'nki') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize("arguments, status, says", [
    ("--mode evaluate-single", 2, "did you mean evaluate_single?"),
    ("--mode generate", 2, "--model-path is missing"),
    ("--mode generate --model-path absent --compiled-model-path c", 1, "no Hugging Face"),
    ("--mode generate --model-path absent --compiled-model-path c --backend neuron", 1,
     "this machine lacks the package torch-neuronx"),
])  # fmt: skip
def test_exit_status_and_message(arguments: str, status: int, says: str, tmp_path: Path) -> None:
    run = start(*arguments.split(), cwd=tmp_path)
    assert run.returncode == status
    assert says in run.stderr and run.stdout == "" and "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_the_packages_is_told_what_to_do(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-S", str(MAIN), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "./run setup" in run.stderr and "Traceback" not in run.stderr


def test_an_interrupt_ends_with_130(home: Path, tmp_path: Path) -> None:
    model = home / "qwen-30b-a3b" / "hf_model"
    process = subprocess.Popen(
        [sys.executable, str(MAIN), "--mode", "evaluate_all", "--model-path", str(model),
         "--compiled-model-path", str(tmp_path / "c"), "--timed-runs", "1000000",
         "--warmup-runs", "0", "--max-new-tokens", "8"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # As by default, also if whoever runs the tests ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    while "timed run" not in (line := process.stderr.readline()):
        assert line, "main.py ended before its first timed run"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "main.py: interrupted" in err and "Traceback" not in err and out == ""


def test_the_seeds_test_command_names_a_program_of_ours() -> None:
    interpreter, program = shlex.split(SEED_COMMANDS["tests"])
    run = subprocess.run(
        [sys.executable, program, "--kernel", "silu"], cwd=ROOT, capture_output=True, text=True
    )
    assert (interpreter, run.returncode) == ("python3", 0), run.stderr


def test_the_seeds_commands_work(home: Path, tmp_path: Path) -> None:
    """Generate compiles, evaluate_all reuses what it compiled; with fewer tokens, to be quick."""
    few = ["--max-new-tokens", "3"]
    generated = start(*seed_command("generate"), *few, cwd=tmp_path, home=home)
    assert generated.returncode == 0, generated.stderr
    assert "Prompt: What is the capital of France?\nOutput: " in generated.stdout
    manifest = json.loads((home / "qwen-30b-a3b/traced_model/manifest.json").read_text())
    assert manifest["variant"] == "nki"

    plain = [word for word in seed_command("generate") if word != "--enable-nki"]
    plain[plain.index("--compiled-model-path") + 1] = str(tmp_path / "baseline")
    baseline = start(*plain, *few, cwd=tmp_path, home=home)
    assert baseline.stdout == generated.stdout

    quick = [*few, "--timed-runs", "1", "--warmup-runs", "0", "--output", "results"]
    evaluated = start(*seed_command("evaluate_all"), *quick, cwd=tmp_path, home=home)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.count("PASS") == 5 and "No score" in evaluated.stdout
    written = json.loads((tmp_path / "results/nki/prompt_4.json").read_text())
    assert sum(written["launches"]["decode_step"].values()) > 0
    assert written["launches"]["prefill"] == written["launches"]["expected_prefill"]


def test_the_seeds_readme_says_what_is_tested_here() -> None:
    readme = ROOT.parent / "shared" / "contest" / "seed_submission_readme.md"
    if not readme.is_file():
        pytest.skip("the seed submission's README is not beside the repository")
    text = readme.read_text(encoding="utf-8")
    assert all(command in text for command in SEED_COMMANDS.values())
