"""What the doctor looks at: one finding per thing, each with what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; a PROBLEM keeps a run from ending well."""

    state: str
    what: str
    found: str
    remedy: str = ""


def summary(findings: Iterable[Finding]) -> str:
    """Return the findings as text, one per line, a remedy on a line of its own."""
    lines = []
    for finding in findings:
        lines.append(f"  {finding.state:<8}{finding.what}: {finding.found}")
        if finding.remedy:
            lines.append(f"  {'':<8}-> {finding.remedy}")
    return "\n".join(lines)


def enough(what: str, found_bytes: int, needed_bytes: int, why: str, remedy: str) -> Finding:
    """Return a finding on a size: a problem if there is less than needed."""
    text = f"{found_bytes / GIB:.1f} GiB, {needed_bytes / GIB:.1f} GiB needed ({why})"
    return (
        Finding(OK, what, text)
        if found_bytes >= needed_bytes
        else Finding(PROBLEM, what, text, remedy)
    )


def free_disk_bytes(path: Path) -> int:
    """Return the free space where `path` is or would be made."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def available_memory_bytes() -> int | None:
    """Return how much memory a new program can have, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def port_is_free(port: int) -> bool:
    """Say whether a TCP port of this machine can be listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def writable(path: Path) -> bool:
    """Say whether a folder, or the nearest one above that exists, can be written to."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK)
