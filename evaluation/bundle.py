"""The submission archive: what goes in, what is refused, and proof that it works elsewhere.

At the top lies qwen_with_nki.py, the one file for the leaderboard, made from the sources beside it.
The archive keeps the repository's folders: `kernels/`, `model/` and `nki_sim/`, beside them
`test_nki_kernels.py`, the report, the results and the README. The challenge's list names the kernel
files flat; copying them to the top as well would give two versions of each, of which the tests can
only ever exercise one. With the repository's own paths, the file that is read is the file that was
tested, byte for byte, and its hash is the one that the record states.

Equal content gives equal bytes: members are sorted, stored uncompressed (the output of zlib depends
on its version), and carry one fixed date and permission.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_IFREG
from typing import Any

from evaluation import onefile
from evaluation.bundle_readme import write_readme
from evaluation.files import read_json, to_json, write_atomically
from evaluation.records import RecordError, load_record

SCHEMA_VERSION = 1
PACKAGES = ("kernels", "model", "nki_sim")
SINGLE_FILES = (
    "LICENSE",
    "test_nki_kernels.py",
    # How test_nki_kernels.py --json writes its results, and says what they depend on:
    "evaluation/__init__.py",
    "evaluation/files.py",
    "evaluation/imports.py",
    "evaluation/provenance.py",
)
REQUIRED = (
    "kernels/nki_attention_kernels.py",
    "kernels/nki_custom_rmsnorm.py",
    "kernels/nki_kernels.py",
    "kernels/nki_moe_kernels.py",
    "model/qwen.py",
    "model/qwen_with_nki.py",
)
RECORD, REPORT_TEX, REPORT_PDF = (
    "benchmark_results.json",
    "technical_report.tex",
    "technical_report.pdf",
)
README, MANIFEST, TESTS = "README.md", "MANIFEST.json", "test_nki_kernels.py"

_SOURCE_SUFFIXES = {".py", ".json", ".txt", ".md", ".yaml"}
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that the format can state
_MODE = S_IFREG | 0o644
_LIMIT_BYTES = 256 << 20  # of everything together; a real submission has a few megabytes
_RECORD_LINE = re.compile(rb"^% record-sha256: ([0-9a-f]{64})\s*$", re.MULTILINE)
_GRAPHICS = re.compile(r"\\includegraphics(?:\[[^]]*\])?\{([^}]+)\}")
_BIBLIOGRAPHY = re.compile(r"\\bibliography\{([^}]+)\}")

# Loads every kernel as the tests do and tells where each module came from.
_ORIGINS = """
import json, sys
from nki_sim.install import install
install()
from kernels.specs import SPECS
for spec in SPECS.values():
    spec.load()
print(json.dumps({name: module.__file__ for name, module in sorted(sys.modules.items())
                  if name.partition(".")[0] in ("kernels", "nki", "nki_sim")
                  and getattr(module, "__file__", None)}))
"""
_LIBRARIES = """
import json, os, ml_dtypes, numpy
folders = (os.path.dirname(os.path.dirname(module.__file__)) for module in (ml_dtypes, numpy))
print(json.dumps(sorted(set(folders))))
"""


class BundleError(RuntimeError):
    """An archive cannot be made, or one is not what it states to be."""


def write_archive(
    zip_path: Path, root: Path, record_path: Path, tex: Path, pdf: Path
) -> dict[str, Any]:
    """Write the submission archive atomically to `zip_path`; return its manifest.

    `root` is the repository with the code; record, LaTeX source (with the figures and the
    bibliography that it names beside it) and PDF may lie anywhere. Refused, with BundleError or
    what `load_record` raises: an invalid record, a report that was not made from this record, code
    that is not the code which the record was measured with, a missing file, a file that lies
    outside its folder.
    """
    record = load_record(record_path)
    members = {**dict(_sources(root)), **dict(_report_files(tex))}
    for name, path in ((RECORD, record_path), (REPORT_TEX, tex), (REPORT_PDF, pdf)):
        members[name] = _read(path)
    members[onefile.FILE_NAME] = _leaderboard_file(root, record)
    _require_complete(members, record)
    _require_one_origin(members, record)
    members[README] = write_readme(record, _hash(members[RECORD]), members).encode("utf-8")
    manifest = _manifest(members, record)
    members[MANIFEST] = to_json(manifest).encode("utf-8")
    write_atomically(zip_path, zip_bytes(members))
    return manifest


def verify_archive(
    zip_path: Path, python: str, timeout_s: float = 900.0, jobs: int = 1
) -> dict[str, Any]:
    """Unpack an archive into an empty folder, check it, and run its kernel tests there.

    The tests run in so many processes (`jobs`).
    `python` is an interpreter with numpy and ml_dtypes. It runs without its start-up files and with
    an environment of its own, so that only the unpacked kernels and simulator can be imported; that
    this is so is checked, not assumed. Returns what was checked, the same for the same archive.
    Raises BundleError.
    """
    members = read_members(zip_path)
    manifest = _check_manifest(members)
    with tempfile.TemporaryDirectory(prefix="submission-") as temporary:
        folder = Path(temporary).resolve() / "unpacked"
        _unpack(members, folder)
        record = _load_own_record(folder / RECORD)
        _require_complete(members, record)
        _require_one_origin(members, record)
        tests = _run_kernel_tests(folder, python, record, timeout_s, jobs)
    return {
        "schema_version": SCHEMA_VERSION,
        "archive": {"sha256": _hash(zip_path.read_bytes()), "files": len(members)},
        "commit": manifest["commit"],
        "record_sha256": manifest["record_sha256"],
        "tests": tests,
    }


# What belongs in and what belongs together ----------------------------------------------------


def _sources(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the code files below `root`, caches and stray files left out."""
    for name in SINGLE_FILES:
        yield name, _read_inside(root, root / name)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            relative = path.relative_to(root)
            hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
            if path.suffix in _SOURCE_SUFFIXES and not hidden and not path.is_dir():
                yield relative.as_posix(), _read_inside(root, path)


def _report_files(tex: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the figures and bibliographies that the LaTeX source names, so that it can be built."""
    source = _read(tex).decode("utf-8", errors="replace")
    names = set(_GRAPHICS.findall(source))
    for listed in _BIBLIOGRAPHY.findall(source):
        names |= {f"{name.strip()}.bib" for name in listed.split(",")}
    for name in sorted(names):
        _require_safe_name(name)
        yield name, _read_inside(tex.parent, tex.parent / name)


def _read_inside(root: Path, path: Path) -> bytes:
    name = path.relative_to(root).as_posix()
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{name} is a link or leads out of {root}: put the file itself there")
    _require_safe_name(name)
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} is missing from the submission: {error.strerror}; build it first "
            "(./run results/submission.zip builds everything that it needs)"
        ) from error


def _leaderboard_file(root: Path, record: Mapping[str, Any]) -> bytes:
    """Return the model with its kernels as one file, of the sources that go in beside it."""
    try:
        made = onefile.bundle(root, record["provenance"].get("commit"))
    except onefile.OneFileError as error:
        raise BundleError(f"{onefile.FILE_NAME} cannot be made: {error}") from error
    return made.text.encode("utf-8")


def _require_complete(members: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    measured = {f"kernels/{kernel['file']}" for kernel in record["nki_kernels_implemented"]}
    needed = {*SINGLE_FILES, *REQUIRED, *measured, RECORD, REPORT_TEX, REPORT_PDF}
    needed.add(onefile.FILE_NAME)
    if missing := sorted(needed - members.keys()):
        raise BundleError(f"the submission lacks {', '.join(missing)}")


def _require_one_origin(members: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Refuse a report of other results, and results of other code."""
    record_sha256 = _hash(members[RECORD])
    stated = _RECORD_LINE.search(members[REPORT_TEX])
    if stated is None:
        raise BundleError(f"{REPORT_TEX} does not state its record (% record-sha256: ...)")
    if stated[1].decode() != record_sha256:
        raise BundleError(
            f"{REPORT_TEX} was made from another record ({stated[1].decode()[:12]}) than this "
            f"{RECORD} ({record_sha256[:12]}): build the report again"
        )
    if not members[REPORT_PDF].startswith(b"%PDF-"):
        raise BundleError(f"{REPORT_PDF} is not a PDF")
    if not _names(members[REPORT_PDF], record_sha256):
        raise BundleError(
            f"{REPORT_PDF} was made from another record than this {RECORD} "
            f"({record_sha256[:12]} is not in its information dictionary): build it again"
        )
    provenance = record["provenance"]
    measured = {**provenance["kernels"], **provenance["model_code"]}
    changed = sorted(
        name
        for name, digest in measured.items()
        if name not in members or _hash(members[name]) != digest
    )
    if changed:
        raise BundleError(
            f"{', '.join(changed)} changed since {RECORD} was measured: run the evaluation again"
        )


def _names(pdf: bytes, text: str) -> bool:
    """Say whether a PDF's information dictionary, which TeX never compresses, holds `text`.

    It may be written in ASCII or, as hyperref does, in UTF-16 with the zero bytes in octal.
    """
    return text.encode() in pdf or "".join(f"\\000{letter}" for letter in text).encode() in pdf


def _manifest(members: Mapping[str, bytes], record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": record["provenance"].get("commit"),
        "dirty": record["provenance"].get("dirty"),
        "record_sha256": _hash(members[RECORD]),
        "record_schema_version": record["schema_version"],
        "files": {
            name: {"sha256": _hash(content), "size_bytes": len(content)}
            for name, content in sorted(members.items())
        },
    }


def _load_own_record(path: Path) -> dict[str, Any]:
    try:
        return load_record(path)
    except RecordError as error:
        raise BundleError(f"the archive holds invalid results: {error}") from error


def _check_manifest(members: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the archive's manifest; refuse any file that is missing, extra or different."""
    if MANIFEST not in members:
        raise BundleError(f"the archive has no {MANIFEST}")
    try:
        manifest = json.loads(members[MANIFEST])
        version, record_sha256 = manifest["schema_version"], manifest["record_sha256"]
        files = {
            name: (entry["sha256"], entry["size_bytes"])
            for name, entry in manifest["files"].items()
        }
        manifest["commit"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{MANIFEST} is not a usable manifest: {error!r}") from error
    if version != SCHEMA_VERSION:
        raise BundleError(f"{MANIFEST} has schema_version {version}, not {SCHEMA_VERSION}")
    actual = {n: (_hash(c), len(c)) for n, c in members.items() if n != MANIFEST}
    problems = [f"{name} is missing" for name in sorted(files.keys() - actual.keys())]
    problems += [f"{name} is not in {MANIFEST}" for name in sorted(actual.keys() - files.keys())]
    problems += [
        f"{name} does not have the hash and size that {MANIFEST} states"
        for name in sorted(files.keys() & actual.keys())
        if files[name] != actual[name]
    ]
    if not problems and record_sha256 != files.get(RECORD, (None,))[0]:
        problems.append(f"{MANIFEST} states another record than {RECORD}")
    if problems:
        raise BundleError(f"the archive was altered: {'; '.join(problems)}")
    return manifest


# The zip file --------------------------------------------------------------------------------


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file of these members: the same bytes for the same content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # Unix, whatever wrote it
            info.external_attr = _MODE << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def read_members(zip_path: Path) -> dict[str, bytes]:
    """Return the members of an archive, by name; nothing is written and no name is trusted."""
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = archive.infolist()
            _require_plain_files(entries)
            return {entry.filename: archive.read(entry) for entry in entries}
    except FileNotFoundError:
        raise BundleError(f"there is no archive {zip_path}: write it first") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise BundleError(f"{zip_path} is not a readable archive: {error}") from error


def _require_plain_files(entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        _require_safe_name(entry.filename)
        # The NUL that the library cuts names at would hide the rest of the name from the checks.
        if entry.orig_filename != entry.filename:
            raise BundleError(f"{entry.orig_filename!r} is not a plain relative file name")
        if S_IFMT(entry.external_attr >> 16) not in (0, S_IFREG):
            raise BundleError(f"{entry.filename} is a link or a special file")
        if entry.flag_bits & 1:
            raise BundleError(f"{entry.filename} is encrypted")
        if entry.filename.lower() in seen:  # some file systems do not tell a.py from A.py
            raise BundleError(f"{entry.filename} is in the archive twice")
        seen.add(entry.filename.lower())
    total_bytes = sum(entry.file_size for entry in entries)
    if total_bytes > _LIMIT_BYTES:
        raise BundleError(f"the archive unpacks to {total_bytes} bytes; {_LIMIT_BYTES} at most")


def _require_safe_name(name: str) -> None:
    """Refuse a name that could leave the folder on any system, or hide what it is."""
    path = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set('\\:*?"<>|')
    if not plain or path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise BundleError(f"{name!r} is not a plain relative file name")


def _unpack(members: Mapping[str, bytes], folder: Path) -> None:
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Its tests -----------------------------------------------------------------------------------


def _run_kernel_tests(
    folder: Path, python: str, record: Mapping[str, Any], timeout_s: float, jobs: int
) -> dict[str, Any]:
    """Run test_nki_kernels.py in `folder` as its reader would; return how many cases passed."""
    environment = _clean_environment(python, folder)
    _require_own_modules(folder, _call([python, "-S", "-c", _ORIGINS], folder, environment, 120.0))
    results = folder.parent / "kernel_tests.json"
    command = [python, "-S", TESTS, "--json", str(results), "--jobs", str(jobs)]
    _call(command, folder, environment, timeout_s)
    kernels = read_json(results)["kernels"]
    measured = {kernel["kernel"] for kernel in record["nki_kernels_implemented"]}
    failed = sorted(name for name in measured if not kernels.get(name, {}).get("passed"))
    if failed:
        raise BundleError(f"the kernel tests of the archive did not pass {', '.join(failed)}")
    cases = {name: _cases(result) for name, result in sorted(kernels.items())}
    if untested := sorted(name for name, count in cases.items() if count == 0):
        raise BundleError(f"the kernel tests of the archive ran no case of {', '.join(untested)}")
    total = sum(cases.values())
    return {"run": total, "passed": total, "kernels": cases}


def _cases(result: Mapping[str, Any]) -> int:
    dtypes = (entry for entry in result.values() if isinstance(entry, dict) and "cases" in entry)
    return sum(entry["cases"] for entry in dtypes) + result.get("refusals", 0)


def _clean_environment(python: str, folder: Path) -> dict[str, str]:
    """Return the variables for `python -S` in `folder`: numpy and ml_dtypes, nothing of the user.

    -S leaves out the start-up files of site-packages, through which a repository that put itself
    on the path could have its own kernels or simulator imported; the two libraries are then found
    through PYTHONPATH.
    """
    bare = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8"}
    places = json.loads(_call([python, "-I", "-c", _LIBRARIES], folder, bare, 120.0))
    return {
        **bare,
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NKI_SIMULATOR": "1",  # the archive's own simulator, also where the SDK is installed
    }


def _require_own_modules(folder: Path, origins: str) -> None:
    modules = json.loads(origins)
    foreign = {n: p for n, p in modules.items() if folder not in Path(p).resolve().parents}
    if foreign or not {"kernels", "nki_sim"} <= modules.keys():
        raise BundleError(
            "the tests would not use the archive's own kernels and simulator but "
            + (", ".join(f"{name} of {path}" for name, path in foreign.items()) or "none at all")
        )


def _call(command: list[str], folder: Path, environment: dict[str, str], timeout_s: float) -> str:
    """Run a command in `folder`; return its output, or raise with the end of what it said."""
    shown = " ".join(word for word in command if "\n" not in word)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            timeout=timeout_s,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise BundleError(f"{command[0]} does not start: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"`{shown}` did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise BundleError(f"`{shown}` failed in the archive (exit {done.returncode}):\n{tail}")
    return done.stdout


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
