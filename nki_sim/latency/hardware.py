"""Constants of the hardware: one YAML file per platform, each with unit, source, confidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "hardware"
PLATFORMS = ("trn1", "trn2", "trn3")
CONFIDENCES = ("documented", "measured", "fitted", "assumed")
FASTEST, NOMINAL, SLOWEST = "fastest", "nominal", "slowest"
SCENARIOS = (FASTEST, NOMINAL, SLOWEST)

Values = Mapping[str, float]
"""Name, e.g. ``tensor.clock``, to number."""


class HardwareError(ValueError):
    """A file of constants that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant.

    Attributes:
        value, unit: the nominal value.
        source: where it is published, or what is assumed.
        confidence: ``documented``, ``measured`` (read from a published measurement), ``fitted``
            (to published measurements) or ``assumed``.
        fastest, slowest: the ends of its range, by their effect on a kernel's time.
    """

    value: float
    unit: str
    source: str
    confidence: str
    fastest: float
    slowest: float


@dataclass(frozen=True, slots=True)
class Hardware:
    """A platform's constants, by name (``section.constant``)."""

    platform: str
    constants: Mapping[str, Constant]

    def values(self, scenario: str = NOMINAL) -> dict[str, float]:
        """All numbers in a scenario: nominal, or every one at the end of its range."""
        if scenario == NOMINAL:
            return {name: one.value for name, one in self.constants.items()}
        return {name: getattr(one, scenario) for name, one in self.constants.items()}

    def assumptions(self) -> dict[str, Constant]:
        """Those that have a range: what is not known well."""
        return {n: c for n, c in self.constants.items() if c.fastest != c.slowest}


@lru_cache(maxsize=16)
def load(platform: str | Path) -> Hardware:
    """The constants of ``trn1``, ``trn2`` or ``trn3``, or of a YAML file of the same form.

    Raises:
        HardwareError: no such platform, no PyYAML, or a file that lacks something.
    """
    path = FOLDER / f"{platform}.yaml" if platform in PLATFORMS else Path(platform)
    if not path.is_file():
        raise HardwareError(
            f"{platform}: no platform ({', '.join(PLATFORMS)}) and no file of constants"
        )
    hardware = read(path)
    _require_all(path, hardware.constants)
    return hardware


def read(path: Path) -> Hardware:
    """The constants of a YAML file of the form of a platform's, whatever they are about.

    Raises:
        HardwareError: no PyYAML, or a file that is none of constants.
    """
    content = _read(path)
    if not isinstance(content, dict) or not isinstance(content.get("platform"), str):
        raise HardwareError(f"{path}: names no platform")
    constants = {
        f"{section}.{name}": _constant(f"{path}: {section}.{name}", entry)
        for section, name, entry in _entries(path, content)
    }
    return Hardware(content["platform"], constants)


def _read(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise HardwareError(
            "the latency model reads its constants with PyYAML; pip install PyYAML"
        ) from None
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise HardwareError(f"{path}: {error}") from None


def _entries(path: Path, content: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for section, entries in content.items():
        if section == "platform":
            continue
        if not isinstance(entries, dict):
            raise HardwareError(f"{path}: {section} holds no constants")
        for name, entry in entries.items():
            yield section, name, entry


def _constant(where: str, entry: Any) -> Constant:
    try:
        value = float(entry["value"])
        fastest, slowest = (float(end) for end in entry.get("range", (value, value)))
        found = Constant(
            value, entry["unit"], entry["source"].strip(), entry["confidence"], fastest, slowest
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise HardwareError(
            f"{where}: needs value, unit, source, confidence, and perhaps range: [fastest, "
            f"slowest]; received {entry!r} ({error!r})"
        ) from None
    if found.confidence not in CONFIDENCES:
        raise HardwareError(f"{where}: confidence is one of {', '.join(CONFIDENCES)}")
    if not min(fastest, slowest) <= value <= max(fastest, slowest):
        raise HardwareError(f"{where}: {value} lies outside its range {fastest} to {slowest}")
    return found


def _require_all(path: Path, constants: Mapping[str, Constant]) -> None:
    """Every platform has the same constants: those of trn2's file."""
    reference = FOLDER / "trn2.yaml"
    if path == reference:
        return
    missing = sorted(set(load("trn2").constants) ^ set(constants))
    if missing:
        raise HardwareError(f"{path}: constants missing or unknown: {', '.join(missing)}")
