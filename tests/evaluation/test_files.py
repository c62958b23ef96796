"""Result files are absent or complete, and JSON is strict both ways."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from evaluation.files import (
    FileError,
    read_json,
    sha256_file,
    sha256_json,
    to_json,
    write_atomically,
    write_json,
)


def test_text_is_written_as_utf8_into_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, "Grüße")
    assert path.read_bytes() == "Grüße".encode()


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_keeps_the_order_of_keys_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [True, None, "é"]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.index('"b"') < text.index('"a"') and text.endswith("}\n") and "é" in text
    assert read_json(tmp_path / "x.json") == {"b": 1, "a": [True, None, "é"]}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": {"b": [1.0, float("nan")]}}, "$.a.b[1]"),
        ({"a": float("inf")}, "$.a"),
        ({"a": {3: "x"}}, "3"),
        ({"a": np.int64(3)}, "int64"),
        ({"a": {1, 2}}, "set"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_no_json_is_refused_and_not_written(
    tmp_path: Path, value: object, where: str
) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(FileError, match="not written") as raised:
        write_json(path, value)
    assert where in str(raised.value) and str(path) in str(raised.value)
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": [1, 2', "truncated"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_file_is_named_with_its_problem(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(FileError) as raised:
        read_json(path)
    assert str(path) in str(raised.value) and problem in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone\.json: cannot be read: No such file"):
        read_json(tmp_path / "gone.json")


def test_hashes(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "file") == known
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.5})


def test_to_json_refuses_what_write_json_refuses() -> None:
    with pytest.raises(FileError, match=r"\$\[0\]"):
        to_json([float("nan")])
