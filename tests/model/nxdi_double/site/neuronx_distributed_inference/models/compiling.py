"""What the double leaves when it compiles, and the faults that a test asks for.

NXDI_DOUBLE_FAULT names one: "<step>:<what>". The graphs are modules that a compiler wrote for other
functions (tests/evaluation/hlo): those of a model with kernels hold kernels, the baseline's do not.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

GRAPHS = Path(__file__).resolve().parents[5] / "evaluation" / "hlo"
HANG_S = 120.0


def trace(application: Any) -> None:
    """Write the HLO of each bucket of both graphs where ModelBuilder writes it."""
    work = Path(os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"))
    with_kernels = type(application).__module__.endswith("qwen_with_nki")
    sources = ("prefill", "decode") if with_kernels else ("loop", "loop")
    for wrapper, name in zip(
        (application.context_encoding_model, application.token_generation_model),
        sources,
        strict=True,
    ):
        shutil.rmtree(work / wrapper.tag, ignore_errors=True)
        data = (GRAPHS / f"{name}.pb").read_bytes()
        for index in range(len(wrapper.neuron_config.buckets)):
            fail_as_asked("compile", wrapper.tag)
            folder = work / wrapper.tag / f"_tp0_bk{index}"
            folder.mkdir(parents=True)
            (folder / "graph.neff").write_bytes(b"neff")
            (folder / "model.hlo_module.pb").write_bytes(data)
            _damage(folder)


def save(application: Any, directory: Path) -> None:
    if _fault() != "compile:no_model":
        (directory / "model.pt").write_text(content(application))


def content(application: Any) -> str:
    """What is in a compiled model: enough to notice another one's."""
    settings = application.neuron_config
    return f"{type(application).__module__} {settings.seq_len} {settings.torch_dtype}"


def fail_as_asked(step: str, graph: str) -> None:
    """Fail at this step if the test wants it: once the first graph is done."""
    if graph != "token_generation_model" or not _fault().startswith(f"{step}:"):
        return
    what = _fault().partition(":")[2]
    if what == "dies":
        os._exit(77)
    if what == "disk_full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if what == "raises":
        raise RuntimeError("NCC_EVRF066: the compiler refuses the graph")
    if what == "hangs":
        print("hanging", flush=True)
        time.sleep(HANG_S)


def _damage(folder: Path) -> None:
    module = folder / "model.hlo_module.pb"
    if _fault() == "compile:truncated_hlo":
        module.write_bytes(module.read_bytes()[:200])
    elif _fault() == "compile:two_modules":
        shutil.copyfile(module, folder / "other.hlo_module.pb")
    elif _fault() == "compile:no_module":
        module.unlink()


def _fault() -> str:
    return os.environ.get("NXDI_DOUBLE_FAULT", "")
