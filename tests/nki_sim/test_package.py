"""The simulator as a package of its own: installed somewhere, it runs without this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "nki_sim"
PROGRAM = """
import sys
sys.path.insert(0, {target!r})
import nki_sim.install
nki_sim.install.install()
import numpy as np, nki, nki.isa as nisa, nki.language as nl
from nki_sim import lint

@nki.jit
def double(x):
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=tile)
    return out

assert nki.__file__.startswith({target!r}), nki.__file__
assert double(np.ones((4, 8), np.float32)).sum() == 64 and "2.27" in lint.VERSIONS
import nki_sim
from nki_sim.latency import hardware, predict
with nki_sim.record() as recording:
    double(np.ones((4, 8), np.float32))
assert str(hardware.FOLDER).startswith({target!r})
assert predict(recording.launches[0], "trn3").time_us.nominal > 0
print(*sorted(name.split(".")[0] for name in sys.modules))
"""


def test_it_installs_and_runs_alone(tmp_path: Path) -> None:
    copy, target, elsewhere = (tmp_path / name for name in ("nki_sim", "target", "elsewhere"))
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--target", str(target), str(copy)]
    subprocess.run(pip, check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NKI"))}
    site = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    program = f"import sys; sys.path += {site.split(os.pathsep)!r}\n" + PROGRAM.format(
        target=str(target)
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=elsewhere, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.split())
    assert not loaded & {"kernels", "model", "evaluation", "report", "workflow", "torch"}


def test_every_folder_of_the_simulator_is_in_the_package() -> None:
    declared = (SOURCE / "pyproject.toml").read_text()
    for init in SOURCE.rglob("__init__.py"):
        parts = init.parent.relative_to(SOURCE.parent).parts
        assert f'"{".".join(parts)}"' in declared
