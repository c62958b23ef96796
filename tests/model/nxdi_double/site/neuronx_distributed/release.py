"""Which SDK release the double behaves as."""

from __future__ import annotations

CURRENT = "2.27"


def choose(release: str) -> None:
    """Behave as `release`: "2.27", "2.28" or "2.29"."""
    global CURRENT
    CURRENT = release


def since(release: str) -> bool:
    """Whether the current release is `release` or newer."""
    return release <= CURRENT
