"""Brings results from the instance that measured them to the machine that builds the report.

    python3 -m evaluation.carry export --output measured.zip      on the instance
    python3 -m evaluation.carry import measured.zip               elsewhere, at the same commit

The file holds the record and all that it was made from, except weights and compiled models, with a
manifest of hashes. Importing checks every hash, recomputes the record's figures, and refuses
results of other sources than those that lie here. Then the report is built from the record alone:

    snakemake --cores 1 --allowed-rules plot_figure render_report build_pdf -- \
        report/technical_report.pdf
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.bundle import BundleError, read_members, zip_bytes
from evaluation.files import sha256_bytes, sha256_file, to_json, write_atomically
from evaluation.provenance import REPOSITORY
from evaluation.records import RecordError, load_record

SCHEMA_VERSION = 1
RECORD, MANIFEST = "results/benchmark_results.json", "carried.json"
PATTERNS = (
    "results/evaluations/*/*.json",
    "results/evaluations/*/*.csv",
    "results/compiled/*/manifest.json",
    "results/kernel_tests/*.json",
    "results/predictions/*.json",
    "results/validation/*.json",
    "results/model_manifest.json",
)
"""What is carried beside the record. Logits stay: their hashes are in the evaluations."""


class CarryError(RuntimeError):
    """Results that cannot be carried, or must not be taken in here."""


def export_results(root: Path, output: Path) -> dict[str, Any]:
    """Write the results below `root` to `output` and return the manifest.

    CarryError where there is no record, RecordError for one that is not valid.
    """
    record_path = root / RECORD
    if not record_path.is_file():
        raise CarryError(
            f"{record_path}: no record to export; build it first: snakemake --cores 1 {RECORD}"
        )
    record = load_record(record_path)
    paths = [record_path, *(path for pattern in PATTERNS for path in root.glob(pattern))]
    members = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "backend": record["backend"],
        "commit": record["provenance"].get("commit"),
        "files": {name: sha256_bytes(content) for name, content in members.items()},
    }
    write_atomically(output, zip_bytes({**members, MANIFEST: to_json(manifest).encode()}))
    return manifest


def import_results(archive: Path, root: Path, replace: bool = False) -> dict[str, Any]:
    """Check an exported file and write its results below `root`; return its manifest.

    Nothing is written unless all of it can be trusted: CarryError for a file that was altered, for
    an invalid record, for other sources than those below `root`, and, without `replace`, for
    results here that would be lost.
    """
    members = read_members(archive)
    manifest = _checked_manifest(members)
    record = _checked_record(members[RECORD])
    changed = _other_sources(record, root)
    if changed:
        raise CarryError(
            f"{archive}: measured with other sources than those here: {', '.join(changed)}. Check "
            f"out commit {manifest['commit']}"
        )
    different = [
        name
        for name, digest in manifest["files"].items()
        if (root / name).is_file() and sha256_file(root / name) != digest
    ]
    if different and not replace:
        raise CarryError(
            f"{archive}: {', '.join(different)} exist(s) here with another content; --replace "
            "overwrites"
        )
    # The record comes last: where it is, everything is.
    for name in sorted(manifest["files"], key=lambda name: name == RECORD):
        write_atomically(root / name, members[name])
    return manifest


def _checked_manifest(members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        manifest = json.loads(members[MANIFEST])
        files = dict(manifest["files"])
        version, _ = manifest["schema_version"], manifest["commit"]
    except (KeyError, TypeError, ValueError) as error:
        raise CarryError(f"not a file of exported results: {error!r}") from error
    if version != SCHEMA_VERSION:
        raise CarryError(f"exported with version {version} of this program's format")
    actual = {n: sha256_bytes(content) for n, content in members.items() if n != MANIFEST}
    altered = sorted(n for n in {*files, *actual} if files.get(n) != actual.get(n))
    if altered:
        raise CarryError(f"altered since it was exported: {', '.join(altered)}")
    strange = sorted(name for name in files if not name.startswith("results/"))
    if strange or RECORD not in files:
        raise CarryError(f"not a file of exported results: {', '.join(strange) or 'no record'}")
    return dict(manifest)


def _checked_record(content: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="carried-") as folder:
        path = Path(folder, "benchmark_results.json")
        path.write_bytes(content)
        try:
            return load_record(path)
        except RecordError as error:
            raise CarryError(f"the record is not valid: {error}") from error


def _other_sources(record: Mapping[str, Any], root: Path) -> list[str]:
    """Return the sources that the record was measured with and that are others here."""
    provenance = record["provenance"]
    stated = {**provenance["kernels"], **provenance["model_code"]}
    return sorted(
        name
        for name, digest in stated.items()
        if not (root / name).is_file() or sha256_file(root / name) != digest
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m evaluation.carry")
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="pack the results of this folder")
    exporting.add_argument("--output", type=Path, required=True, help="file to write")
    importing = commands.add_parser("import", help="check packed results and take them in")
    importing.add_argument("archive", type=Path, help="file that export wrote")
    importing.add_argument("--replace", action="store_true", help="overwrite other results here")
    options = parser.parse_args(arguments)
    try:
        if options.command == "export":
            manifest = export_results(REPOSITORY, options.output)
        else:
            manifest = import_results(options.archive, REPOSITORY, options.replace)
    except (CarryError, BundleError, RecordError) as error:
        sys.exit(f"carry: {error}")
    print(f"{len(manifest['files'])} files of backend {manifest['backend']}, every hash checked")


if __name__ == "__main__":
    main()
