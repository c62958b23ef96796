"""How ``import nki`` is resolved, each case in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = "'nki_sim' not in repr(f)"  # a start-up hook of the environment may have installed it
SHOW = "import nki; print(nki.__name__)"


def python(code: str, *paths: Path, **environment: str) -> str:
    """Standard output of `code`, with `paths` and the repository on sys.path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NKI_", "NEURON_"))}
    preamble = f"import sys; sys.meta_path[:] = [f for f in sys.meta_path if {_NOT_OURS}]\n"
    search = os.pathsep.join(str(path) for path in (*paths, ROOT))
    done = subprocess.run(
        [sys.executable, "-c", preamble + code],
        env=clean | environment | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sdk(folder: Path, regular: bool = True) -> Path:
    """A stand-in for the SDK's package."""
    package = folder / "nki"
    package.mkdir()
    if regular:
        (package / "__init__.py").write_text("")
        (package / "language.py").write_text("origin = 'sdk'\n")
    return folder


def test_importing_the_simulator_changes_nothing() -> None:
    code = """
before = list(sys.meta_path), set(sys.modules)
import nki_sim, nki_sim.install
assert list(sys.meta_path) == before[0]
new = {name.split('.')[0] for name in set(sys.modules) - before[1]}
print('numpy' in new, 'nki' in sys.modules)
"""
    assert python(code) == "False False"


def test_without_install_there_is_no_nki() -> None:
    code = "import nki_sim\ntry:\n    import nki\nexcept ImportError:\n    print('absent')"
    assert python(code) == "absent"


def test_simulator_when_the_sdk_is_absent() -> None:
    code = """
from nki_sim.install import install
install(); install()
import nki, nki.language as nl, nki.isa as nisa
import nki.isa.constants, nki.typing, nki.collectives
from nki.isa.constants import dge_mode
from nki import language
import nki_sim.nki.language as direct
print(nki.__name__, nl is language is direct, nisa.dge_mode is dge_mode)
print(sum('SimulatorFinder' in repr(f) for f in sys.meta_path), nl.__spec__.name)
"""
    assert python(code).splitlines() == ["nki_sim.nki True True", "1 nki_sim.nki.language"]


def test_the_sdk_is_preferred(tmp_path: Path) -> None:
    code = "from nki_sim.install import install; install()\nimport nki.language\n"
    assert python(code + "print(nki.language.origin)", sdk(tmp_path)) == "sdk"


def test_the_environment_asks_for_the_simulator(tmp_path: Path) -> None:
    code = f"from nki_sim.install import install; install()\n{SHOW}"
    assert python(code, sdk(tmp_path), NKI_SIMULATOR="1") == "nki_sim.nki"
    assert python(code, tmp_path, NKI_SIMULATOR="0") == "nki"


def test_a_bare_folder_is_no_sdk(tmp_path: Path) -> None:
    code = f"from nki_sim.install import install; install()\n{SHOW}"
    assert python(code, sdk(tmp_path, regular=False)) == "nki_sim.nki"


def test_uninstall_removes_every_trace(tmp_path: Path) -> None:
    code = """
from nki_sim.install import install, uninstall
install()
import nki.isa
uninstall()
assert not any(name == 'nki' or name.startswith('nki.') for name in sys.modules)
sys.path.insert(0, PATH)
import nki.language
print(nki.language.origin)
"""
    assert python(code.replace("PATH", repr(str(sdk(tmp_path))))) == "sdk"


def test_types_are_there_without_an_import_of_their_own() -> None:
    """Published kernels annotate parameters with ``nki.dtype`` after ``import nki`` alone."""
    code = """
from nki_sim.install import install
install()
import nki
print(nki.dtype.int32)
import nki.dtype
print(nki.dtype.int32)
"""
    assert python(code) == "int32\nint32"


def test_unknown_submodules_are_import_errors() -> None:
    code = """
from nki_sim.install import install
install()
import nki
try:
    import nki.nothing
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert python(code) == "nki.nothing"


def test_torch_is_not_imported_for_arrays() -> None:
    code = """
from nki_sim.install import install
install()
import numpy, nki, nki.language as nl, nki.isa as nisa
@nki.jit
def copy(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=x)
    return out
copy(numpy.ones((2, 2), numpy.float32))
print('torch' in sys.modules)
"""
    assert python(code) == "False"
