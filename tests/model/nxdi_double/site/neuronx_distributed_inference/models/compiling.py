"""What the double leaves when it compiles, and the faults that a test asks for.

NXDI_DOUBLE_FAULT names one: "<step>:<what>". The graphs are modules that a compiler wrote for other
functions (tests/evaluation/hlo); to those of a model with kernels comes a call for each launch that
a run of both phases makes.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

GRAPHS = Path(__file__).resolve().parents[5] / "evaluation" / "hlo"
HANG_S = 120.0


def trace(application: Any) -> None:
    """Write the HLO of each bucket of both graphs where ModelBuilder writes it."""
    work = Path(os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"))
    for wrapper, data in zip(
        (application.context_encoding_model, application.token_generation_model),
        _modules(application),
        strict=True,
    ):
        shutil.rmtree(work / wrapper.tag, ignore_errors=True)
        for index in range(len(wrapper.neuron_config.buckets)):
            fail_as_asked("compile", wrapper.tag)
            folder = work / wrapper.tag / f"_tp0_bk{index}"
            folder.mkdir(parents=True)
            (folder / "graph.neff").write_bytes(b"neff")
            (folder / "model.hlo_module.pb").write_bytes(data)
            _damage(folder)


def _modules(application: Any) -> list[bytes]:
    """The graphs' modules. Those of a model with kernels hold a call for each launch of a trace."""
    if not type(application).__module__.endswith("qwen_with_nki"):
        return [(GRAPHS / "loop.pb").read_bytes()] * 2
    from model import dispatch

    modules = []
    with torch.inference_mode():
        for name, ids, start in (("prefill", torch.arange(8), 0), ("decode", torch.arange(1), 8)):
            with dispatch.counting() as launched:
                application.model(ids[None], start)
            modules.append(_with_calls((GRAPHS / f"{name}.pb").read_bytes(), launched))
    return modules


def _with_calls(data: bytes, launched: Counter[str]) -> bytes:
    """A module with custom calls of kernels without multiply-accumulates added to it."""
    from evaluation import hlo
    from kernels.specs import SPECS

    module = hlo._message("Module").FromString(data)
    (entry,) = (c for c in module.computations if c.name == module.entry_computation_name)
    for number, kernel in enumerate(launched.elements()):
        stated = json.dumps({"func_name": SPECS[kernel].function, "mac_count": 0})
        entry.instructions.add(
            name=f"kernel.{number}",
            opcode="custom-call",
            custom_call_target=hlo.NKI_TARGET,
            backend_config=base64.b64encode(stated.encode()),
            id=100_000 + number,
        )
    return module.SerializeToString()


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
