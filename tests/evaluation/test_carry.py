"""Results that are carried from one machine to another arrive whole, or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation import carry
from evaluation.bundle import BundleError, zip_bytes
from evaluation.carry import CarryError, export_results, import_results
from evaluation.files import read_json, write_json

from . import result_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a device was measured: sources and results."""
    folder = tmp_path_factory.mktemp("instance")
    sources(folder)
    results = result_files.make(tmp_path_factory.mktemp("files"), "neuron")
    record = results.record()
    write_json(folder / carry.RECORD, record)
    for variant in ("baseline", "nki"):
        for prompt in (0, 1):
            target = folder / f"results/evaluations/{variant}/prompt_{prompt}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(results.evaluation(variant, prompt), target)
    (folder / "results/evaluations/nki/scores.csv").write_text("team_id\n")
    (folder / "results/evaluations/baseline/prompt_0.npz").write_bytes(b"logits")
    return folder


def sources(folder: Path) -> None:
    for part in ("kernels", "model"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def packed(instance: Path, tmp_path: Path) -> Path:
    export_results(instance, tmp_path / "measured.zip")
    return tmp_path / "measured.zip"


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    folder = tmp_path / "laptop"
    sources(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    found = (folder / "results").rglob("*")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found if p.is_file()}


def test_what_arrives_is_what_was_measured(instance: Path, packed: Path, laptop: Path) -> None:
    manifest = import_results(packed, laptop)
    measured = files(instance)
    measured.pop("results/evaluations/baseline/prompt_0.npz")  # logits stay
    assert files(laptop) == measured and manifest["backend"] == "neuron"
    assert manifest["files"].keys() == measured.keys()
    import_results(packed, laptop)  # once more changes nothing


def test_equal_results_give_equal_bytes(instance: Path, packed: Path, tmp_path: Path) -> None:
    export_results(instance, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def _alter(name: str, content: bytes | None) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        if content is None:
            del members[name]
        else:
            members[name] = content

    return change


def _forge(members: dict[str, bytes]) -> None:
    """Another latency in the record, under a manifest that knows of it."""
    from evaluation.files import sha256_bytes, to_json

    record = json.loads(members[carry.RECORD])
    record["per_prompt_results"][0]["nki"]["latency_ms"] /= 2
    members[carry.RECORD] = to_json(record).encode()
    manifest = json.loads(members[carry.MANIFEST])
    manifest["files"][carry.RECORD] = sha256_bytes(members[carry.RECORD])
    members[carry.MANIFEST] = to_json(manifest).encode()


@pytest.mark.parametrize("change, says", [
    (_alter("results/evaluations/nki/prompt_0.json", b"{}"), "altered since it was exported"),
    (_alter("results/evaluations/nki/prompt_0.json", None), "altered since it was exported"),
    (_alter("results/evaluations/nki/prompt_9.json", b"{}"), "altered since it was exported"),
    (_alter(carry.MANIFEST, None), "not a file of exported results"),
    (_alter(carry.MANIFEST, b"{"), "not a file of exported results"),
    (_alter(carry.MANIFEST, b'{"schema_version": 9, "commit": null, "files": {}}'), "version 9"),
    (_forge, "the record is not valid"),
])  # fmt: skip
def test_what_was_altered_is_not_taken_in(
    packed: Path, laptop: Path, change: Callable[[dict[str, bytes]], None], says: str
) -> None:
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    packed.write_bytes(zip_bytes(members))
    with pytest.raises(CarryError, match=says):
        import_results(packed, laptop)
    assert files(laptop) == {}


def test_a_cut_file_is_not_taken_in(packed: Path, laptop: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:1000])
    with pytest.raises(BundleError, match="not a readable archive"):
        import_results(packed, laptop)


def test_other_sources_here_are_named(packed: Path, laptop: Path) -> None:
    edited = laptop / "model" / "qwen_with_nki.py"
    edited.write_text(edited.read_text() + "# edited\n")
    with pytest.raises(CarryError, match=r"other sources than those here: model/qwen_with_nki\.py"):
        import_results(packed, laptop)
    assert files(laptop) == {}


def test_results_here_are_not_lost(packed: Path, laptop: Path) -> None:
    mine = laptop / carry.RECORD
    write_json(mine, {"mine": True})
    with pytest.raises(CarryError, match="--replace overwrites"):
        import_results(packed, laptop)
    assert read_json(mine) == {"mine": True}
    import_results(packed, laptop, replace=True)
    assert read_json(mine)["backend"] == "neuron"


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    with pytest.raises(CarryError, match="no record to export"):
        export_results(tmp_path, tmp_path / "x.zip")


def test_the_command_line(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evaluation.carry"]
    done = subprocess.run(
        [*command, "import", str(tmp_path / "absent.zip")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "carry: there is no archive" in done.stderr
    assert "Traceback" not in done.stderr
