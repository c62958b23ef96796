"""The two ways in which the driver compiles, loads and runs a model: simulator and device."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from evaluation import artefact, neuron, neuron_artefact, sdk
from evaluation.commandline import Options
from evaluation.files import FileError, read_json
from evaluation.flags import COMPILE, NEURON, SIMULATOR
from evaluation.models import Graphs, LoadModel, Model
from evaluation.neuron_graphs import CompiledGraphs
from evaluation.provenance import nki_version

if TYPE_CHECKING:
    from evaluation.session import Session

Manifest = Mapping[str, Any]


class DriverError(RuntimeError):
    """What was asked for cannot be done here; the message says what to do."""


class Backend(Protocol):
    """How compile, load and evaluate are carried out; `variant` is "baseline" or "nki"."""

    one_model_per_process: bool
    """Whether the baseline must have been unloaded before the model with kernels is loaded."""

    def require(self, options: Options) -> None:
        """DriverError, before any work, for what this machine or this program cannot do."""

    def set_up_process(self, options: Options) -> None:
        """Set the environment variables that decide what `import nki` and the compiler do."""

    def find(self, session: Session, variant: str) -> Manifest:
        """Return the manifest of the compiled artefact; ArtefactMismatch unless one fits."""

    def compile(self, session: Session, variant: str) -> Manifest:
        """Compile and return the manifest."""

    def inputs(self, session: Session, variant: str) -> dict[str, Any]:
        """Return everything that determines the artefact of a variant."""

    def load(self, session: Session, variant: str) -> Model:
        """Load the model of a variant; on a device, as it was compiled."""

    def graphs(self, session: Session, manifest: Manifest) -> Graphs | None:
        """Return what the compiled graphs tell of a run; None where the run itself tells."""


class Simulator:
    """Any CPU: the kernels run in nki_sim, the model in torch."""

    one_model_per_process = False

    def __init__(self, load_model: LoadModel) -> None:
        self._load_model = load_model

    def require(self, options: Options) -> None:
        """The CPU can do everything that the command line lets through."""

    def set_up_process(self, options: Options) -> None:
        """Let `nki` be the simulator where the SDK is installed too."""
        os.environ["NKI_SIMULATOR"] = "1"

    def inputs(self, session: Session, variant: str) -> dict[str, Any]:
        """See `evaluation.artefact`."""
        return artefact.artefact_inputs(
            variant, session.manifest["sha256"], session.compile_settings
        )

    def find(self, session: Session, variant: str) -> Manifest:
        """See `evaluation.artefact`."""
        return artefact.check_artefact(
            session.options.compiled_model_path, variant, session.manifest, session.compile_settings
        )

    def compile(self, session: Session, variant: str) -> Manifest:
        """Trace every kernel; DriverError for a folder that holds something else."""
        directory = session.options.compiled_model_path
        _require_own_folder(directory)
        return artefact.compile_artefact(
            variant,
            session.options.model_path,
            session.manifest,
            session.compile_settings,
            directory,
            session.progress,
        )

    def load(self, session: Session, variant: str) -> Model:
        """Seed the random generators and load the model; it tells its decode steps."""
        from evaluation.session import Telling

        options = session.options
        _seed(options.seed)
        model = self._load_model(
            variant, options.model_path, options.torch_dtype, options.kernel_path
        )
        return Telling(model, session.progress)

    def graphs(self, session: Session, manifest: Manifest) -> Graphs | None:
        """There are none: launches are counted while the model runs."""
        return None


class Neuron:
    """A Trainium, through NxD Inference."""

    one_model_per_process = True

    def require(self, options: Options) -> None:
        """DriverError unless SDK and device are there and every flag is one that is driven."""
        if lacking := sdk.missing():
            raise DriverError(
                f"--backend neuron: this machine lacks {', '.join(lacking)}. Nothing was run. "
                "`main.py --mode doctor --backend neuron` looks at everything that is needed; "
                f"--backend {SIMULATOR} (the default) runs the same kernels here"
            )
        from evaluation.flags import FLAGS

        for key in neuron.NOT_DRIVEN:
            if options.device.get(key) not in (None, False):
                raise DriverError(
                    f"{FLAGS[key].name}: a flag of the challenge's driver whose work this one does "
                    "not do; drop it"
                )
        if options.device["qwen"] not in ("qwen", "qwen_with_nki"):
            raise DriverError(
                f"--qwen {options.device['qwen']}: this driver runs qwen (the baseline) and "
                "qwen_with_nki (the same as --enable-nki)"
            )

    def set_up_process(self, options: Options) -> None:
        """Let `nki` be the SDK's, compiling for the device."""
        os.environ.pop("NKI_SIMULATOR", None)

    def inputs(self, session: Session, variant: str) -> dict[str, Any]:
        """See `evaluation.neuron_artefact`."""
        options = session.options
        return neuron_artefact.artefact_inputs(
            variant, session.manifest["sha256"], options.platform_target, _configuration(options)
        )

    def find(self, session: Session, variant: str) -> Manifest:
        """Look the artefact up by its key; what the store holds beside it does not matter."""
        store = session.options.compiled_model_path
        manifest = neuron_artefact.find(store, self.inputs(session, variant))
        neuron_artefact.publish(store, manifest)
        return manifest

    def compile(self, session: Session, variant: str) -> Manifest:
        """Compile through NxD Inference; DriverError for a folder that holds something else."""
        options, store = session.options, session.options.compiled_model_path
        if store.exists() and not (store.is_dir() and neuron_artefact.is_store(store)):
            raise _foreign(store)
        _seed(options.seed)
        manifest = neuron_artefact.compile_artefact(
            self._application(session, variant),
            store,
            self.inputs(session, variant),
            session.progress,
            debug=bool(options.device.get("hlo_debug")),
        )
        neuron_artefact.publish(store, manifest)
        return manifest

    def load(self, session: Session, variant: str) -> Model:
        """Load the compiled model onto the device."""
        options = session.options
        _seed(options.seed)
        folder = neuron_artefact.folder_of(
            options.compiled_model_path, self.inputs(session, variant)
        )
        skip_warmup = bool(options.device.get("skip_warmup"))
        application = self._application(session, variant)
        return neuron.load_model(application, folder, options.model_path, skip_warmup)

    def graphs(self, session: Session, manifest: Manifest) -> Graphs | None:
        """Return the counted graphs of the artefact."""
        options = session.options
        return CompiledGraphs(
            neuron_artefact.read_buckets(options.compiled_model_path, manifest),
            read_json(options.model_path / "config.json"),
            int(options.device["tp_degree"]),
            manifest["fallbacks"],
        )

    def _application(self, session: Session, variant: str) -> Any:
        options = session.options
        return neuron.build(variant, options.model_path, _configuration(options))


class Absent:
    """The SDK's own simulator, on which kernels are tested but no model is run.

    It counts no instructions, so that a run would lack the coverage that a record is made of.
    """

    one_model_per_process = False

    def require(self, options: Options) -> None:
        """Refuse, and say what there is."""
        lacking = ""
        if nki_version() in ("nki_sim", "none"):
            lacking = " (this machine lacks the package nki of Neuron SDK 2.29 or newer)"
        raise DriverError(
            f"--backend {options.backend}: models run on the CPU simulator and on a device; in the "
            "simulator of the Neuron SDK, which counts no instructions, kernels are tested alone: "
            f"python3 test_nki_kernels.py --backend {options.backend}{lacking}. Nothing was run. "
            f"Leave out --backend (or write --backend {SIMULATOR}) to run the same kernels here"
        )


def choose(options: Options, load_model: LoadModel) -> Backend:
    """Return the backend of a command line; DriverError for one that cannot run here."""
    kinds = {SIMULATOR: lambda: Simulator(load_model), NEURON: Neuron}
    backend: Any = kinds.get(options.backend, Absent)()
    backend.require(options)
    chosen: Backend = backend
    return chosen


def prepare(session: Session, variant: str | None = None) -> Manifest:
    """Return the artefact to run: checked with `--skip-compile`, else compiled unless it fits.

    `--compile-only` compiles anew on the simulator, where that is quick and checks the kernels; a
    device's artefact that fits is kept, since its key covers all that it was made from.
    """
    options, backend = session.options, session.backend
    variant = variant or options.variant
    if options.skip_compile:
        return backend.find(session, variant)
    if options.mode != COMPILE or options.backend == NEURON:
        try:
            return backend.find(session, variant)
        except artefact.ArtefactMismatch:
            pass  # absent or of something else: made anew
    with session.progress.part(f"compiling {variant}"):
        return backend.compile(session, variant)


def _configuration(options: Options) -> neuron.Arguments:
    return neuron.configuration(
        options.device, options.seq_len, options.batch_size, options.torch_dtype
    )


def _seed(seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _require_own_folder(directory: Path) -> None:
    """Refuse to compile into a folder that holds anything else than an artefact of ours."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        found = read_json(directory / "manifest.json")
        ours = isinstance(found, dict) and {"key", "variant", "inputs"} <= found.keys()
    except FileError:
        ours = False
    if not ours:
        raise _foreign(directory)


def _foreign(directory: Path) -> DriverError:
    return DriverError(
        f"--compiled-model-path {directory} exists and holds no artefact of this program; "
        "nothing in it was touched. Name another folder, or empty this one"
    )
