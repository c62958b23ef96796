"""A small double of NxD Inference: the classes that `model.qwen*` subclass or call, and no others.

`site/` holds them under the SDK's own module names. They compute on the CPU at one rank, in plain
torch, and take the keywords of one SDK release; an unknown keyword is a TypeError, where the SDK
itself may only warn. Written for these tests from the public sources' signatures and behaviour;
docs/neuron.md says what it proves and what it does not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SITE = Path(__file__).with_name("site")
RELEASES = ("2.27", "2.28", "2.29")
OURS = ("model.qwen", "model.qwen_with_nki", "model.neuron_layers")


@contextmanager
def installed(release: str) -> Iterator[None]:
    """Make `import neuronx_distributed_inference` give the double of `release` meanwhile.

    Modules of the double, and ours that import it, are forgotten before and after.
    """
    _forget()
    sys.path.insert(0, str(SITE))
    try:
        importlib.import_module("neuronx_distributed.release").choose(release)
        yield
    finally:
        sys.path.remove(str(SITE))
        _forget()


def _forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0].startswith("neuronx_distributed") or name in OURS:
            del sys.modules[name]
    package = sys.modules.get("model")
    for name in OURS:
        if package is not None and hasattr(package, name.partition(".")[2]):
            delattr(package, name.partition(".")[2])
