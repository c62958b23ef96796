"""Make ``import nki`` give the simulator where the Neuron SDK's own package is absent or not
wanted.

The choice is made when ``nki`` is first imported. It is the simulator when ``NKI_SIMULATOR=1`` or
when no other finder knows a regular package ``nki``, else the SDK's package. Importing this module
changes nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_OURS = "nki_sim.nki"


class _Alias(Loader):
    """Loads ``nki.x`` by handing out the module ``nki_sim.nki.x``."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module("nki_sim." + spec.name)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has put the alias there


class SimulatorFinder(MetaPathFinder):
    """Answers for ``nki`` and its submodules when the simulator is to be used."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The alias for `fullname`, or None to let the SDK's package be found."""
        if fullname == "nki":
            return self._alias(fullname) if self._wanted() else None
        parent = sys.modules.get("nki") if fullname.startswith("nki.") else None
        if parent is None or parent.__name__ != _OURS:
            return None
        known = importlib.util.find_spec("nki_sim." + fullname)
        return self._alias(fullname) if known else None

    def _wanted(self) -> bool:
        return os.environ.get("NKI_SIMULATOR") == "1" or not self._sdk_present()

    def _sdk_present(self) -> bool:
        """Whether another finder knows a regular package (a bare folder called nki is none)."""
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec("nki", None, None)
            if spec is not None and spec.loader is not None and spec.origin is not None:
                return True
        return False

    @staticmethod
    def _alias(fullname: str) -> ModuleSpec:
        return ModuleSpec(fullname, _Alias(), is_package=fullname in ("nki", "nki.isa"))


def install() -> None:
    """Put the finder in front of all others; a second call does nothing."""
    if not any(isinstance(finder, SimulatorFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SimulatorFinder())


def uninstall() -> None:
    """Remove the finder, and the simulator's modules from under the name ``nki``."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not isinstance(finder, SimulatorFinder)
    ]
    for name, module in list(sys.modules.items()):
        if (name == "nki" or name.startswith("nki.")) and getattr(
            module, "__name__", ""
        ).startswith(_OURS):
            del sys.modules[name]
