"""The command line: what it prints, its exit codes, and the README's examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from nki_sim import errors, lint
from nki_sim.cli import main
from nki_sim.cli.target import UsageError, load, parse_value, prepare
from nki_sim.engines import INSTRUCTIONS
from nki_sim.trace import record

from .readme_examples import examples, printed_by

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tests" / "nki_sim" / "examples"
PORTABLE = {
    "matmul.py:matmul": "lhs_t=128x128:bf16 rhs=128x512:bf16",
    "rmsnorm.py:rmsnorm": "x=130x256:bf16 weight=1x256:bf16",
    "softmax.py:softmax": "x=130x64",
    "gather.py:gather": "table=100x16:bf16 index=64x1:i32:0..99",
    "topk.py:topk": "scores=4x128",
}


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def call(*words: str) -> int:
    return main(words)


def example(name: str) -> str:
    return str(EXAMPLES / name)


# -- check -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", PORTABLE)
def test_the_examples_pass_every_check(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = call("check", example(kernel), "--shapes", *PORTABLE[kernel].split())
    out = capsys.readouterr().out
    assert "all legal" in out
    if kernel == "softmax.py:softmax":  # its breakpoint is no part of the compiler's language
        assert code == 1 and "[builtin]" in out and "1 errors, 0 warnings" in out
    else:
        assert code == 0 and "SDK 2.27, 2.28, 2.29, 2.30, 2.31, 2.32: nothing found" in out


def test_check_shows_the_source_of_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", example("rmsnorm.py:rmsnorm_in_python"), "--versions", "2.28,2.31") == 1
    out = capsys.readouterr().out
    assert "tests/nki_sim/examples/rmsnorm.py:67:13: error [comprehension]" in out
    assert "    tiles = [load(x, first, 1) for first in range(x.shape[0])]\n" in out
    assert "  remedy: fill a list in a for loop (SDK 2.28, 2.31)\n" in out
    assert "language: SDK 2.28, 2.31: 3 errors, 0 warnings\n" in out
    assert "trace: not run; name one kernel and give its arguments with --shapes" in out


def test_check_traces_with_all_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", example("rmsnorm.py:rmsnorm_forgets_eps"), "--shapes", "x=4x8") == 1
    out = capsys.readouterr().out
    assert "nothing found" in out and "error: UninitialisedRead in rmsnorm_forgets_eps" in out
    assert "    nisa.activation(dst=tile, op=nl.rsqrt, data=tile, bias=bias)\n" in out
    assert "  received  bias (4, 1) float32 in sbuf" in out and ": refused\n" in out


def test_a_file_of_several_kernels_is_checked_without_a_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("check", example("rmsnorm.py")) == 1
    out = capsys.readouterr().out
    assert "3 errors, 0 warnings" in out and "trace: not run; name one kernel" in out


def test_warnings_are_no_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "warns.py"
    path.write_text(
        "import nki\n\n\n@nki.jit\ndef k(x, y=None):\n    return x if y is None else y\n"
    )
    assert call("check", str(path), "--shapes", "x=4x4") == 0
    assert "warning [identity]" in capsys.readouterr().out
    assert call("check", str(path), "--quiet") == 0
    assert "[identity]" not in capsys.readouterr().out


def test_a_finding_of_a_launch_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", example("topk.py"), "--shapes", "scores=4x128") == 0
    assert "runs of 32 bytes" in capsys.readouterr().out


def test_helpers_frames_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ["x=4x256", "weight=1x256", "eps='tiny'"]
    assert call("run", example("rmsnorm.py:rmsnorm"), "--shapes", *shapes) == 1
    out = capsys.readouterr().out
    assert "error: IllegalProgram in inverse_rms\n" in out
    assert "examples/rmsnorm.py:40 in rmsnorm\n" in out
    assert "examples/rmsnorm.py:23 in inverse_rms\n    nisa.memset(dst=bias, value=eps)\n" in out


def test_other_exceptions_show_the_kernels_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "refuses.py"
    lines = ["import nki", "", "", "def inner(x):", "    assert x.shape[0] == 2, 'two rows'", "",
             "", "@nki.jit", "def k(x):", "    inner(x)", "    return x"]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    assert call("run", str(path), "--shapes", "x=4x4") == 1
    out = capsys.readouterr().out
    assert "error: AssertionError in inner\n" in out and "refuses.py:10 in k\n" in out
    assert "    assert x.shape[0] == 2, 'two rows'\n" in out and "two rows" in out
    assert call("check", str(path), "--shapes", "x=4x4") == 1
    assert ": failed\n" in capsys.readouterr().out
    assert call("run", str(path), "--shapes", "x=2x4") == 0


# -- run -------------------------------------------------------------------------------------------


def test_run_is_reproducible_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        prefix = str(tmp_path / f"out{len(outputs)}_")
        words = ["run", example("topk.py"), "--shapes", "scores=4x32", "--seed", seed]
        assert call(*words, "--save", prefix) == 0
        outputs.append((np.load(f"{prefix}0.npy"), np.load(f"{prefix}1.npy")))
    scores = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    np.testing.assert_array_equal(outputs[0][0], -np.sort(-scores)[:, :8])
    np.testing.assert_array_equal(outputs[0][1], np.argsort(-scores)[:, :8])
    np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
    assert (outputs[0][0] != outputs[2][0]).any()
    assert "result  shape     type" in capsys.readouterr().out


def test_run_takes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    np.save(tmp_path / "table.npy", table)
    np.save(tmp_path / "index.npy", np.array([[3], [9]]))
    words = [f"table={tmp_path}/table.npy:bf16", f"index={tmp_path}/index.npy:i32"]
    prefix = str(tmp_path / "out")
    assert call("run", example("gather.py"), "--shapes", *words, "--save", prefix) == 0
    saved = np.load(f"{prefix}0.npy").view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(saved.astype(np.float32), table[[3, 9]])
    again = parse_value("x", f"{prefix}0.npy:bf16", np.random.default_rng(0))
    np.testing.assert_array_equal(again, saved)
    with pytest.raises(UsageError, match="raw bytes"):
        parse_value("x", f"{prefix}0.npy", np.random.default_rng(0))
    assert "2x4" in capsys.readouterr().out


def test_results_that_are_not_finite_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.array([[np.inf, 1.0]], np.float32))
    assert call("run", example("softmax.py"), "--shapes", f"x={tmp_path}/x.npy") == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].split()[-1] == "2"


@pytest.mark.parametrize("platform", ["trn1", "trn3"])
def test_the_platform_is_chosen(platform: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    words = ["--shapes", "scores=4x32", "--platform", platform]
    assert call("profile", example("topk.py"), *words) == 0
    assert f" on {platform}\n" in capsys.readouterr().out
    assert os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") == before


# -- values and usage ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("128x16:bf16", (128, 16), "bfloat16"),
        ("2x3x4", (2, 3, 4), "float32"),
        ("64:i32", (64,), "int32"),
        ("64:", (64,), "float32"),
        ("4x4:u8:250..255", (4, 4), "uint8"),
        ("4x4:f16:-1e-3..1e-3", (4, 4), "float16"),
        ("4x4:bool", (4, 4), "bool"),
        ("4x4:float8_e4m3", (4, 4), "float8_e4m3"),
        ("4x4:float8_e4m3fn_x4", (4, 4), "uint32"),
    ],
)
def test_tensors(text: str, shape: tuple[int, ...], dtype: str) -> None:
    made = parse_value("x", text, np.random.default_rng(0))
    assert made.shape == shape and made.dtype.name == dtype
    if ".." in text:
        low, high = map(float, text.rpartition(":")[2].split(".."))
        values = made.astype(np.float64)
        slack = abs(high) / 1000
        assert (values >= low - slack).all() and (values <= high + slack).all()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-6", 1e-6), ("8", 8), ("-2", -2), ("(2,4)", (2, 4)), ("None", None), ("True", True),
     ("'4x4'", "4x4"), ("fast", "fast")],
)  # fmt: skip
def test_constants(text: str, value: object) -> None:
    assert parse_value("x", text, np.random.default_rng(0)) == value


MISTAKES = [
    (["run", "absent.py:k"], "there is no file absent.py"),
    (["run", "matmul"], "a target is FILE.py:kernel"),
    (["run", "{rmsnorm.py}"], "name a kernel:"),
    (["run", "{rmsnorm.py}:absent"], "has no kernel 'absent'; its kernels are rmsnorm,"),
    (["run", "{topk.py}:topk"], "topk needs --shapes scores=..."),
    (["run", "{topk.py}", "--shapes", "scores"], "'scores' is not NAME=VALUE"),
    (["run", "{topk.py}", "--shapes", "y=4x4"], "has no parameter 'y'; it has scores"),
    (["run", "{topk.py}", "--shapes", "scores=4x4:f99"], "there is no data type 'f99'"),
    (["run", "{topk.py}", "--shapes", "scores=4x"], "scores=4x cannot be understood"),
    (["run", "{topk.py}", "--shapes", "scores=0x4"], "every dimension is at least 1"),
    (["run", "{topk.py}", "--shapes", "scores=4x8", "scores=4x8"], "given twice"),
    (["run", "{topk.py}", "--shapes", "scores=absent.npy"], "cannot read absent.npy"),
    (["check", "{topk.py}", "--versions", "2.26"], "version '2.26' is not known"),
    (["explain", "nc_matmull"], "did you mean nc_matmul"),
    (["explain", "xyzzy"], "no instruction, error or rule called 'xyzzy'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_mistakes_are_explained(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [w.replace("{", f"{EXAMPLES}/").replace("}", "") for w in words]
    assert call(*filled) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out and "Traceback" not in captured.err


def test_a_file_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "absent_import.py"
    path.write_text("import nki\nimport not_there_at_all\n")
    assert call("run", f"{path}:k") == 2
    assert "cannot be imported: ModuleNotFoundError" in capsys.readouterr().err
    path = tmp_path / "broken.py"
    path.write_text("import nki\n@nki.jit(platform_target='trn9')\ndef k(x):\n    return x\n")
    assert call("run", f"{path}:k", "--shapes", "x=4x4") == 1
    out = capsys.readouterr().out
    assert "platform_target='trn9'" in out and "broken.py:2 in <module>" in out


def test_an_error_on_two_cores_shows_the_kernels_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n\n\n@nki.jit\n"
        "def k(x):\n"
        "    t = nl.ndarray((4, 256), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.tensor_copy(dst=t, src=t)\n"
        "    return x\n"
    )
    assert call("run", str(path), "--shapes", "x=4x256", "--lnc", "2") == 1
    out = capsys.readouterr().out
    assert "error: UninitialisedRead in k" in out and "two.py:9 in k" in out


def test_plain_functions_and_grids(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("def k(x):\n    return x\n")
    assert call("run", f"{path}:k", "--shapes", "x=4x4") == 0
    assert call("run", f"{path}:k", "--shapes", "x=4x4", "--lnc", "1") == 0
    assert load(str(EXAMPLES / "topk.py"))[1] == "topk"
    target = prepare(str(EXAMPLES / "softmax.py"), ["x=4x4", "stop=True"], 0)
    assert target.described() == "softmax(x = 4x4 float32, stop = True)"


# -- profile ---------------------------------------------------------------------------------------


def test_profile_of_a_matmul_worked_out_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ["lhs_t=256x256:bf16", "rhs=256x1024:bf16"]
    assert call("profile", example("matmul.py"), "--shapes", *shapes) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"tensor nc_matmul 8 {8 * 128 * 512:,} " in out and f"{256 * 256 * 1024:,}" in out
    assert "matmul.py:29 tensor 8" in out
    assert "lhs_t 128 KiB 128 KiB 0 B" in out
    assert "rhs 512 KiB 1 MiB 0 B read 2.0 times" in out
    # lhs_t, rhs twice and the output, against each once
    assert "moved 1.625 MiB; the least possible is 1.125 MiB, 1.44 times as much" in out
    assert "SBUF: 3,584 of 212,984 bytes per partition (1.7 %)" in out
    assert "128x2x128 bfloat16 1 512 matmul.py:20 left = nl.ndarray(" in out
    assert "PSUM: 2 of 8 banks" in out


def test_profile_of_a_gather_counts_what_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shapes", "table=1000x16:bf16", "index=64x1:i32:0..999"]
    assert call("profile", example("gather.py"), *words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "table 31.25 KiB 2 KiB 0 B" in out and "1.00 times as much" in out


def test_profile_without_data_and_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ["x=300x512:bf16", "weight=1x512:bf16"]
    accounts = []
    for options in ([], ["--no-data"]):
        words = ["profile", example("rmsnorm.py:rmsnorm"), "--shapes", *shapes, *options]
        assert call(*words) == 0
        accounts.append(capsys.readouterr().out)
    assert accounts[0] == accounts[1]
    assert "scale  128x512" in accounts[0] and "read 128.0 times" in accounts[0]
    assert call("profile", example("rmsnorm.py:rmsnorm"), "--shapes", *shapes, "--lines", "2") == 0
    assert "more lines" in capsys.readouterr().out


def test_a_profile_ends_at_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("profile", example("rmsnorm.py:rmsnorm_forgets_eps"), "--shapes", "x=4x8") == 1
    out = capsys.readouterr().out
    assert "the account ends at this error" in out and "dma_copy" in out


def test_a_profile_of_two_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "halves.py"
    path.write_text(
        "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n\n\n@nki.jit\n"
        "def k(x):\n"
        "    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "    half = x.shape[0] // 2\n"
        "    first = nl.program_id(0) * half\n"
        "    t = nl.ndarray((half, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[first:first + half, :])\n"
        "    nisa.dma_copy(dst=out[first:first + half, :], src=t)\n"
        "    return out\n"
    )
    assert call("profile", str(path), "--shapes", "x=8x256", "--lnc", "2") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "dma dma_copy 4" in out and "SBUF: 1,024 of" in out and "halves.py:11" in out


def test_events_and_holders_know_their_lines() -> None:
    """Only while recording; helpers are named by their own line."""
    target = prepare(example("rmsnorm.py:rmsnorm"), ["x=200x64", "weight=1x64"], 0)
    with record() as recording:
        target.kernel(**target.arguments)
    (launch,) = recording.launches
    lines = (EXAMPLES / "rmsnorm.py").read_text().splitlines()
    for event in launch.instructions:
        assert event.file == str(EXAMPLES / "rmsnorm.py")
        assert f"nisa.{event.opcode}(" in lines[event.line - 1]
    assert sum(h.amount for h in launch.at_peak["sbuf"]) == launch.sbuf_peak_bytes_per_partition
    for holder in launch.at_peak["sbuf"]:
        assert "nl.ndarray(" in lines[holder.line - 1]
    assert "x" in {operand.name for event in launch.instructions for operand in event.operands}


# -- explain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [one.opcode for one in INSTRUCTIONS])
def test_every_instruction_is_explained(opcode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", opcode) == 0
    out = capsys.readouterr().out
    (instruction,) = [one for one in INSTRUCTIONS if one.opcode == opcode]
    assert out.startswith(f"nki.isa.{opcode}\n") and str(instruction.cost) in out
    for limit in instruction.limits:
        assert f"{limit.lowest} <= {limit.axis} <= {limit.highest}" in out and limit.source in out
    for rule in instruction.rules:
        assert rule.text in out and rule.source in out


@pytest.mark.parametrize(
    "name", ["IllegalProgram", "UninitialisedRead", "NotModelled", "NoNumbers"]
)
def test_every_error_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", name) == 0
    out = capsys.readouterr().out
    assert out.startswith(name) and (getattr(errors, name).__doc__ or "")[:40] in out


@pytest.mark.parametrize("rule", lint.RULES)
def test_every_rule_is_explained(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", rule) == 0
    assert lint.RULES[rule].remedy in capsys.readouterr().out


def test_names_that_are_no_instructions_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", "nl.ds", "oob_mode", "nki.isa.get_nc_version") == 0
    out = capsys.readouterr().out
    assert "(start, size)" in out and "one of error, skip" in out


# -- the whole program -----------------------------------------------------------------------------


def test_the_module_is_a_program() -> None:
    command = [sys.executable, "-m", "nki_sim", "explain", "memset"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("nki.isa.memset")
    done = subprocess.run([*command[:3], "dance"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "invalid choice: 'dance'" in done.stderr


def test_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("table") == 0 and "| `nc_matmul` |" in capsys.readouterr().out
    assert call("rules") == 0 and "| `comprehension` | error |" in capsys.readouterr().out


def test_a_debugger_stops_inside_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """``breakpoint()`` in a kernel reaches the hook, in the kernel's own frame."""
    seen = []

    def hook() -> None:
        frame = sys._getframe(1)
        seen.append((frame.f_code.co_name, frame.f_locals["rows"], frame.f_locals["lowest"].shape))

    monkeypatch.setattr(sys, "breakpointhook", hook)
    assert call("run", example("softmax.py"), "--shapes", "x=130x8", "stop=True") == 0
    assert seen == [("softmax", 128, (128, 1)), ("softmax", 2, (2, 1))]


def test_pdb_itself_works() -> None:
    command = [sys.executable, "-m", "nki_sim", "run", example("softmax.py")]
    command += ["--shapes", "x=4x8", "stop=True"]
    script = "p width\np lowest.shape\np float(lowest.array.max())\ncontinue\n"
    done = subprocess.run(command, input=script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "(Pdb) 8\n" in done.stdout and "(Pdb) (4, 1)\n" in done.stdout


def test_post_mortem() -> None:
    command = [sys.executable, "-m", "nki_sim", "run", example("rmsnorm.py:rmsnorm_forgets_eps")]
    command += ["--shapes", "x=4x8", "--pdb"]
    done = subprocess.run(command, input="quit\n", capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "(Pdb)" in done.stdout


# -- the README ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "printed"), examples(), ids=lambda text: text[:50])
def test_the_readmes_examples(command: str, printed: str) -> None:
    """Rewritten by ``python -m tests.nki_sim.readme_examples``."""
    assert printed_by(command) == printed


def test_the_readme_has_examples() -> None:
    commands = {command.split()[0] for command, _ in examples()}
    assert commands == {"check", "run", "profile", "explain"}
