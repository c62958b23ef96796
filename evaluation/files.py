"""Reading and writing result files: atomic, strict JSON, and content hashes.

A file of results is either absent or complete. Every writer goes through `write_atomically`, so
that a process killed at any moment leaves no file which a later run takes for finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20
_CONSTANTS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""Numbers that are none in JSON, as files spell them."""


class FileError(RuntimeError):
    """A file cannot be read, or an object cannot be written as strict JSON.

    `where` is the path to the value at fault, as in summary.accuracy, where there is one.
    """

    def __init__(self, message: str, where: str = "") -> None:
        self.where = where
        super().__init__(message)


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`: readers see the old file or the whole new one.

    The data goes to a temporary file in the same folder (`os.replace` is atomic only within a file
    system), is flushed to the disk, and then takes the name. Missing parent folders are made. An
    interrupted write leaves `path` as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_json(obj: Any) -> str:
    """Return `obj` as JSON text: insertion order, two-space indent, final newline.

    Raises FileError, with the path to the value, for NaN, infinity, keys that are not strings, and
    foreign types.
    """
    _require_strict(obj, "$")
    return json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` atomically as JSON (see `to_json`); nothing is written when it is refused."""
    try:
        text = to_json(obj)
    except FileError as error:
        raise FileError(f"{path}: not written: {error}") from None
    write_atomically(path, text)


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file; raises FileError naming the file and the problem.

    Refused beside malformed JSON: NaN and infinity (which Python's parser would accept, and make of
    1e999), and a key given twice; the error names the path to them.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 text (byte {error.start})") from error
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FileError(
            f"{path}: not valid JSON, perhaps truncated: {error.msg} at {where}"
        ) from error
    except RecursionError as error:
        raise FileError(f"{path}: not usable JSON: nested too deeply") from error
    except ValueError as error:
        raise FileError(f"{path}: not usable JSON: {error}") from error
    for where, fault in _faults(content):
        raise FileError(f"{path}: not usable JSON: {where or 'the value'}: {fault}", where)
    return content


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return sha256_bytes(text.encode("utf-8"))


def sha256_json(obj: Any) -> str:
    """Return the SHA-256 of `obj` in canonical JSON: sorted keys, no spaces, ASCII."""
    _require_strict(obj, "$")
    return sha256_text(json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False))


def _require_strict(obj: Any, where: str) -> None:
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise FileError(f"{where}: the key {key!r} is not a string")
            _require_strict(value, f"{where}.{key}")
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            _require_strict(value, f"{where}[{index}]")
    elif isinstance(obj, float):
        if not math.isfinite(obj):
            raise FileError(f"{where}: {obj} is no JSON number")
    elif isinstance(obj, str):
        if not obj.isascii() and any("\ud800" <= character <= "\udfff" for character in obj):
            raise FileError(
                f"{where}: {obj!r} holds a lone surrogate and cannot be written as UTF-8"
            )
    elif not (obj is None or isinstance(obj, int)):
        raise FileError(f"{where}: {type(obj).__name__} is not a JSON type; convert it first")


@dataclass(frozen=True)
class _Twice:
    """Stands for a value whose key is given twice, until its path is known."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        result |= {key: _Twice() for key in result if keys.count(key) > 1}
    return result


def _faults(content: Any) -> Iterator[tuple[str, str]]:
    """Yield path and reason of everything that Python's parser takes and strict JSON does not."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}" if path else key, v) for key, v in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, _Twice):
            yield path, "the key is given twice"
        elif isinstance(value, float) and not math.isfinite(value):
            yield path, f"{_CONSTANTS[str(value)]} is no JSON number"
