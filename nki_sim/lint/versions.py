"""The releases that the language check knows, oldest first."""

from __future__ import annotations

from collections.abc import Iterable

RELEASES = {
    "2.27": "0.2.0",
    "2.28": "0.2.0",
    "2.29": "0.3.0",
    "2.30": "0.4.0",
    "2.31": "0.5.0",
    "2.32": "0.6.0",
}
"""Neuron SDK to the NKI release that it carries."""

VERSIONS = tuple(RELEASES)


def between(since: str | None = None, before: str | None = None) -> tuple[str, ...]:
    """The versions from `since` on and older than `before`; None leaves an end open."""
    first = VERSIONS.index(since) if since else 0
    last = VERSIONS.index(before) if before else len(VERSIONS)
    return VERSIONS[first:last]


def parse(wanted: Iterable[str]) -> tuple[str, ...]:
    """Known versions in order of release.

    Raises:
        ValueError: a version that is not known (SDK numbers such as 2.29; NKI numbers such as
            0.3.0 are taken too).
    """
    found = set()
    for version in wanted:
        matching = {version} & set(VERSIONS) or {s for s, n in RELEASES.items() if n == version}
        if not matching:
            raise ValueError(f"version {version!r} is not known; choose from {', '.join(VERSIONS)}")
        found |= matching
    return tuple(v for v in VERSIONS if v in found)
