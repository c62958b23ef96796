"""The doctor's look at a Trainium: device, driver, SDK, cores, memory, paths, ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation import sdk
from evaluation.commandline import Options
from evaluation.findings import (
    GIB,
    NOTE,
    OK,
    PROBLEM,
    Finding,
    available_memory_bytes,
    enough,
    free_disk_bytes,
    port_is_free,
    writable,
)

OLDEST_RELEASE = "2.27"
DRIVER_VERSION_FILE = Path("/sys/module/neuron/version")
COMPILE_ROOM_BYTES = 10 * GIB
"""Room for graphs, NEFFs and the compiler's cache of one artefact: an assumption, with margin."""

DEVICE_ROOM_BYTES = 4 * GIB
"""Room on the device for KV cache, activations and code: an assumption, with margin."""

CHALLENGE_WORK = Path("/tmp/nxd_model")
_LNC_VARIABLES = ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE")
_OVERRIDDEN = ("BASE_COMPILE_WORK_DIR", "NEURON_COMPILE_CACHE_URL", "NKI_SIMULATOR")
_PORTS = ("NEURON_RT_ROOT_COMM_ID", "MASTER_PORT")
_LNC_DEFAULT = 2


def device_findings(options: Options, weights_bytes: int | None) -> Iterator[Finding]:
    """Yield what is found of everything that `--backend neuron` needs beside the model's files."""
    yield from _device(weights_bytes)
    yield from _packages()
    yield from _logical_cores(options)
    yield from _variables()
    yield from _ports()
    yield from _memory(options, weights_bytes)
    yield from _disk(options, weights_bytes)
    yield from _paths(options)


def _device(weights_bytes: int | None) -> Iterator[Finding]:
    count, instance = sdk.devices(), sdk.instance_type()
    if not count:
        yield Finding(
            PROBLEM, "Neuron device", "none (/dev/neuron0 is absent)",
            "rent an instance with one, such as trn2.3xlarge; on one, load the driver: sudo "
            "modprobe neuron, or install aws-neuronx-dkms",
        )  # fmt: skip
        return
    yield Finding(OK, "Neuron device", f"{count}, instance type {instance}")
    try:
        version = DRIVER_VERSION_FILE.read_text(encoding="utf-8").strip()
        yield Finding(OK, "driver", version)
    except OSError:
        yield Finding(
            PROBLEM, "driver", f"{DRIVER_VERSION_FILE} cannot be read",
            "the kernel module neuron is not loaded: sudo modprobe neuron",
        )  # fmt: skip
    yield from _neuron_ls(weights_bytes)


def _neuron_ls(weights_bytes: int | None) -> Iterator[Finding]:
    """Ask the vendor's tool for device memory and for processes that hold the device."""
    devices = neuron_ls()
    if devices is None:
        yield Finding(
            NOTE, "device memory and users", "not known: neuron-ls does not answer",
            "install aws-neuronx-tools, or add /opt/aws/neuron/bin to PATH",
        )  # fmt: skip
        return
    memory = sum(int(device.get("memory_size", 0)) for device in devices)
    yield enough(
        "device memory", memory, (weights_bytes or 0) + DEVICE_ROOM_BYTES,
        "the weights once, cache and activations: one model at a time",
        "a smaller model, or an instance with more devices",
    )  # fmt: skip
    processes = [p for device in devices for p in device.get("neuron_processes", ())]
    if processes:
        named = ", ".join(f"{p.get('pid')} ({p.get('command', '?')})" for p in processes)
        yield Finding(
            PROBLEM, "device in use", named, "a measurement needs the device alone: end them"
        )
    else:
        yield Finding(OK, "device in use", "by nobody")


def neuron_ls() -> list[dict[str, Any]] | None:
    """Return what `neuron-ls --json-output` tells, or None."""
    program = shutil.which("neuron-ls") or "/opt/aws/neuron/bin/neuron-ls"
    try:
        told = subprocess.run(
            [program, "--json-output"], capture_output=True, text=True, timeout=20, check=True
        )
        content = json.loads(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return content if isinstance(content, list) else None


def _packages() -> Iterator[Finding]:
    versions = sdk.installed()
    lacking = [name for name in sdk.REQUIRED if name not in versions]
    if lacking:
        yield Finding(
            PROBLEM, "Neuron SDK", f"this Python lacks {', '.join(lacking)}",
            "use the image's environment, /opt/aws_neuronx_venv_pytorch_*_nxd_inference/bin/"
            "python: name it as neuron.python in config/config.yaml, or run main.py with it",
        )  # fmt: skip
        return
    release = sdk.release_of(versions)
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    if release == sdk.UNKNOWN:
        yield Finding(
            NOTE, "Neuron SDK", f"of no release in envs/neuron.yaml: {known}",
            f"releases {', '.join(sdk.releases())} are known; a newer one may work as well",
        )  # fmt: skip
    else:
        yield Finding(OK, "Neuron SDK", f"{release}: {known}")
    for stranger in sdk.strangers(versions):
        yield Finding(
            PROBLEM, "mixed releases", stranger,
            "packages of one release only: use the image's own environment, untouched",
        )  # fmt: skip


def _logical_cores(options: Options) -> Iterator[Finding]:
    given = {name: os.environ[name] for name in _LNC_VARIABLES if name in os.environ}
    asked = options.device.get("logical_nc_config") or _LNC_DEFAULT
    text = ", ".join(f"{name}={value}" for name, value in given.items()) or "not set"
    if any(value != str(asked) for value in given.values()):
        yield Finding(
            PROBLEM, "logical cores (LNC)", f"{text}, while the model is compiled for {asked}",
            f"unset it, or ask for the same with --logical-nc-config (default {_LNC_DEFAULT})",
        )  # fmt: skip
    else:
        yield Finding(OK, "logical cores (LNC)", f"{asked} physical cores each ({text})")


def _variables() -> Iterator[Finding]:
    for name in _OVERRIDDEN:
        if name in os.environ:
            yield Finding(NOTE, name, f"{os.environ[name]!r}; main.py sets its own for the device")
    flags = os.environ.get("NEURON_CC_FLAGS", "")
    if flags:
        problem = "--cache_dir" in flags
        yield Finding(
            PROBLEM if problem else NOTE, "NEURON_CC_FLAGS", repr(flags),
            "unset it: a cache that artefacts share may hand out another kernel's code"
            if problem
            else "it changes what the compiler makes, and is no part of an artefact's key",
        )  # fmt: skip
    if "NEURON_RT_VISIBLE_CORES" in os.environ:
        cores = os.environ["NEURON_RT_VISIBLE_CORES"]
        yield Finding(NOTE, "NEURON_RT_VISIBLE_CORES", f"{cores!r} limits the cores in use")


def _ports() -> Iterator[Finding]:
    for name in _PORTS:
        port = os.environ.get(name, "").rpartition(":")[2]
        if not port.isdigit():
            continue
        if port_is_free(int(port)):
            yield Finding(OK, name, f"port {port} is free")
        else:
            yield Finding(
                PROBLEM, name, f"port {port} is in use",
                f"end the program that listens there (ss -ltnp 'sport = :{port}'), or unset {name}",
            )  # fmt: skip


def _memory(options: Options, weights_bytes: int | None) -> Iterator[Finding]:
    available = available_memory_bytes()
    if available is None or weights_bytes is None:
        yield Finding(NOTE, "host memory", "not compared: its size or the model's is not known")
        return
    yield enough(
        "host memory", available, weights_bytes + weights_bytes // 4,
        "the weights once, and a quarter while they are converted",
        "end other programs, or take an instance with more; compiling is killed without it",
    )  # fmt: skip


def _disk(options: Options, weights_bytes: int | None) -> Iterator[Finding]:
    sharded = bool(options.device.get("save_sharded_checkpoint"))
    needed = COMPILE_ROOM_BYTES + (weights_bytes or 0 if sharded else 0)
    yield enough(
        f"disk of {options.compiled_model_path}", free_disk_bytes(options.compiled_model_path),
        needed,
        "graphs and cache" + (", and the sharded weights" if sharded else ""),
        "free space, or name a folder on a larger disk with --compiled-model-path; a link from "
        "results/compiled serves the workflow",
    )  # fmt: skip


def _paths(options: Options) -> Iterator[Finding]:
    store = options.compiled_model_path
    if not writable(store):
        yield Finding(
            PROBLEM, f"folder {store}", "cannot be written to",
            "name another with --compiled-model-path, or change its owner",
        )  # fmt: skip
    if CHALLENGE_WORK.exists() and not os.access(CHALLENGE_WORK, os.W_OK):
        yield Finding(
            NOTE, str(CHALLENGE_WORK), "belongs to another user",
            "this driver does not use it; the challenge's own main.py would fail there: have it "
            "removed before that runs",
        )  # fmt: skip
