"""The submission archive: same bytes twice, every alteration noticed, its tests run elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from evaluation import bundle
from evaluation.bundle import BundleError, verify_archive, write_archive
from evaluation.bundle_readme import write_readme
from evaluation.records import RecordError

ROOT = Path(__file__).resolve().parents[2]
KERNEL_FILES = {
    "rmsnorm": "nki_custom_rmsnorm.py",
    "silu": "nki_kernels.py",
    "top8": "nki_moe_kernels.py",
    "rope": "nki_attention_kernels.py",
}
SOURCES = {
    "LICENSE": "Apache License\n",
    "test_nki_kernels.py": '''"""Kernel tests."""
import json, os, sys
from nki_sim.install import install
install()
from kernels.specs import EXIT, RESULTS
assert os.environ["NKI_SIMULATOR"] == "1" and "USER" not in os.environ
json.dump({"schema_version": 1, "kernels": RESULTS}, open(sys.argv[2], "w"))
print("rmsnorm FAIL" if EXIT else "all PASS")
sys.exit(EXIT)
''',
    "evaluation/__init__.py": '"""Evaluation."""\n',
    "evaluation/files.py": '"""Files."""\n',
    "evaluation/imports.py": '"""Imports."""\n',
    "evaluation/provenance.py": '"""Provenance."""\n',
    "kernels/__init__.py": '"""Kernels."""\n',
    "kernels/specs.py": f'''"""What each kernel is."""
import importlib
class Spec:
    def __init__(self, file): self.file = file
    def load(self): return importlib.import_module("kernels." + self.file[:-3])
SPECS = {{name: Spec(file) for name, file in {KERNEL_FILES!r}.items()}}
RESULTS = {{name: {{"passed": True, "float32": {{"cases": 2}}, "bfloat16": {{"cases": 3}},
                  "refusals": 1}} for name in SPECS}}
EXIT = 0
''',
    **{f"kernels/{file}": f'"""Kernel file {file}."""\n' for file in KERNEL_FILES.values()},
    "model/__init__.py": '"""Model."""\n',
    "model/layers.py": '"""The layers | that call kernels."""\n',
    "model/qwen.py": '"""The baseline."""\n',
    "model/qwen_with_nki.py": '"""The model with kernels."""\n',
    "model/corpus.txt": "words\n",
    "nki_sim/__init__.py": '"""Simulator."""\n',
    "nki_sim/install.py": '"""Install."""\ndef install():\n    pass\n',
}
TEX = (
    "% record-sha256: {sha256}\n\\includegraphics[width=1cm]{{figures/work.pdf}}\n"
    "\\bibliography{{references}}\n"
)
EXPECTED_NAMES = sorted(
    [
        *SOURCES,
        "technical_report.tex",
        "technical_report.pdf",
        "benchmark_results.json",
        "README.md",
        "MANIFEST.json",
        "figures/work.pdf",
        "qwen_with_nki.py",
        "references.bib",
    ]
)


def sha256(content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


def minimal_record(sources: dict[str, str]) -> dict[str, Any]:
    """Return what the archive reads of a record made without a device."""
    hashes = {name: sha256(text) for name, text in sources.items()}
    prompt = {"prompt_id": 0, "baseline": {}, "nki": {}}
    return {
        "schema_version": "1.0",
        "competition": "The Challenge",
        "model": "tiny",
        "hardware": "CPU (no Trainium)",
        "backend": "simulator",
        "team": {"name": "Tiles | Co", "members": ["A <b>", "C"], "email": "a@example.org"},
        "summary": {
            "accuracy": 0.8,
            "prompts_passed": 4,
            "prompts_total": 5,
            "tokens_checked": 160,
            "tokens_equal": 159,
        },
        "per_prompt_results": [prompt],
        "nki_kernels_implemented": [
            {
                "name": name.upper(),
                "file": file,
                "kernel": name,
                "description": "it | works",
                "validation": {"float32": {"max_abs_error": 1.25e-7}},
                "launches": {"prefill": 5, "decode_step": 7},
            }
            for name, file in KERNEL_FILES.items()
        ],
        "absent": [
            {"key": f"summary.{key}", "reason": "no device took part"}
            for key in ("nki_total_score", "nki_flops_ratio")
        ],
        "provenance": {
            "commit": "c0ffee",
            "dirty": True,
            "kernels": {n: h for n, h in hashes.items() if n.startswith("kernels/nki_")},
            "model_code": {"model/layers.py": hashes["model/layers.py"]},
        },
    }


class Project:
    """A small repository with results, which tests damage before packing it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.results = self.root / "results"
        self.record_path = self.results / "benchmark_results.json"
        self.tex, self.pdf = self.results / "technical_report.tex", self.results / "report.pdf"
        self.zip = folder / "submission.zip"
        self.write_sources(SOURCES)
        self.write_results(minimal_record(SOURCES))

    def write_sources(self, sources: dict[str, str]) -> None:
        for name, text in sources.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def write_results(self, record: dict[str, Any]) -> None:
        (self.results / "figures").mkdir(parents=True, exist_ok=True)
        (self.results / "figures" / "work.pdf").write_bytes(b"%PDF-1.4 figure")
        (self.results / "references.bib").write_text("@misc{a}\n")
        self.record_path.write_text(json.dumps(record))
        digest = sha256(self.record_path.read_bytes())
        self.tex.write_text(TEX.format(sha256=digest))
        self.pdf.write_bytes(f"%PDF-1.5\n<< /RecordSHA256 ({digest}) >>".encode())

    def change_sources(self, **changes: str) -> None:
        """Edit sources by path (with `__` for `/` and without suffix) and measure again."""
        sources = SOURCES | {f"{k.replace('__', '/')}.py": text for k, text in changes.items()}
        self.write_sources(sources)
        self.write_results(minimal_record(sources))

    def pack(self) -> dict[str, Any]:
        return write_archive(self.zip, self.root, self.record_path, self.tex, self.pdf)

    def repack(self, change: Callable[[dict[str, bytes]], None]) -> None:
        """Alter the members of the archive and write it anew."""
        with zipfile.ZipFile(self.zip) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        change(members)
        with zipfile.ZipFile(self.zip, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(bundle, "load_record", lambda path: json.loads(path.read_text()))
    return Project(tmp_path)


# Packing -------------------------------------------------------------------------------------


def test_it_holds_the_expected_files_and_a_true_manifest(project: Project) -> None:
    manifest = project.pack()
    with zipfile.ZipFile(project.zip) as archive:
        assert archive.namelist() == EXPECTED_NAMES
        contents = {name: archive.read(name) for name in EXPECTED_NAMES}
    assert json.loads(contents.pop("MANIFEST.json")) == manifest
    assert manifest["files"] == {
        name: {"sha256": sha256(content), "size_bytes": len(content)}
        for name, content in contents.items()
    }
    assert manifest["record_sha256"] == sha256(project.record_path.read_bytes())
    assert (manifest["commit"], manifest["dirty"]) == ("c0ffee", True)
    for name, text in SOURCES.items():
        assert contents[name].decode() == text


def test_equal_content_gives_equal_bytes(project: Project, tmp_path: Path) -> None:
    project.pack()
    first = project.zip.read_bytes()
    for path in project.root.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700)
    caches = project.root / "kernels" / "__pycache__"
    caches.mkdir()
    (caches / "specs.cpython-311.pyc").write_bytes(b"bytecode")
    (project.root / "kernels" / ".specs.py.swp").write_bytes(b"editor")
    (project.root / "kernels" / "profile.ntff").write_bytes(b"trace")
    project.pack()
    assert project.zip.read_bytes() == first
    with zipfile.ZipFile(project.zip) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {stat.S_IFREG | 0o644}


def test_pdf_may_state_the_record_as_hyperref_writes_it(project: Project) -> None:
    digest = sha256(project.record_path.read_bytes())
    octal = "".join(f"\\000{letter}" for letter in digest)
    project.pdf.write_bytes(f"%PDF-1.5 /RecordSHA256(\\376\\377{octal})".encode())
    project.pack()


def _edit(path: str, content: str = "# other\n") -> Callable[[Project], None]:
    def change(project: Project) -> None:
        (project.root / path).write_text(content)

    return change


def _delete(path: str) -> Callable[[Project], None]:
    return lambda project: (project.root / path).unlink()


def _newer_record(project: Project) -> None:
    project.record_path.write_text(json.dumps(minimal_record(SOURCES) | {"model": "another"}))


def _stale_pdf(project: Project) -> None:
    project.pdf.write_bytes(b"%PDF-1.5 /RecordSHA256 (" + b"0" * 64 + b")")


def _unlisted_kernel(project: Project) -> None:
    record = minimal_record(SOURCES)
    record["nki_kernels_implemented"][0]["file"] = "nki_new_kernels.py"
    project.write_results(record)


def _link(project: Project) -> None:
    outside = project.root.parent / "secret.py"
    outside.write_text("SECRET = 1\n")
    (project.root / "kernels" / "extra.py").symlink_to(outside)


def _linked_folder(project: Project) -> None:
    (project.root / "model").rename(project.root.parent / "model")
    (project.root / "model").symlink_to(project.root.parent / "model")


def _figure_outside(project: Project) -> None:
    digest = sha256(project.record_path.read_bytes())
    project.tex.write_text(f"% record-sha256: {digest}\n\\includegraphics{{../../secret.pdf}}\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_newer_record, r"technical_report\.tex was made from another record"),
        (_stale_pdf, r"technical_report\.pdf was made from another record"),
        (lambda project: project.pdf.write_text("not a PDF"), r"technical_report\.pdf is not a"),
        (lambda project: project.tex.write_text("x"), "does not state its record"),
        (_edit("kernels/nki_kernels.py"), r"kernels/nki_kernels\.py changed since"),
        (_edit("model/layers.py"), r"model/layers\.py changed since"),
        (_delete("model/layers.py"), r"model/layers\.py changed since"),
        (_delete("kernels/nki_moe_kernels.py"), r"lacks kernels/nki_moe_kernels\.py"),
        (_unlisted_kernel, r"lacks kernels/nki_new_kernels\.py"),
        (_delete("LICENSE"), "LICENSE is missing from the submission"),
        (lambda project: project.pdf.unlink(), r"report\.pdf is missing from the submission"),
        (_delete("results/figures/work.pdf"), r"work\.pdf is missing"),
        (_link, r"kernels/extra\.py is a link or leads out of"),
        (_linked_folder, "leads out of|lacks|changed since"),
        (_figure_outside, r"'\.\./\.\./secret\.pdf' is not a plain relative file name"),
        (_edit("kernels/a:b.py"), "is not a plain relative file name"),
    ],
)
def test_it_refuses(project: Project, damage: Callable[[Project], None], message: str) -> None:
    damage(project)
    with pytest.raises(BundleError, match=message):
        project.pack()
    assert not project.zip.exists()


def test_an_invalid_record_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise ValueError("the score does not follow from the samples")

    monkeypatch.setattr(bundle, "load_record", refuse)
    with pytest.raises(ValueError, match="does not follow"):
        project.pack()
    assert not project.zip.exists()


# README --------------------------------------------------------------------------------------


def test_readme_says_what_was_not_measured_and_why() -> None:
    readme = write_readme(minimal_record(SOURCES), "ab12", {})
    assert "| **Total score** | not measured | not measured | - |" in readme
    assert "| Latency (p99 per prompt, mean over prompts) | not measured | not measured" in readme
    keys = "`summary.nki_total_score`, `summary.nki_flops_ratio`"
    assert f"\n- no device took part: {keys}\n" in readme
    assert "80 % (4 of 5 prompts; 159 of 160 tokens equal)" in readme
    assert "| 1.25e-07 | not measured | 5 | 7 |" in readme
    assert "commit `c0ffee` with uncommitted changes" in readme
    assert "`ab12`" in readme


def test_readme_derives_the_summary_from_measured_values() -> None:
    record = minimal_record(SOURCES)
    record["summary"] |= {
        "baseline_total_score": 8.0,
        "nki_total_score": 10.0,
        "nki_flops_ratio": 0.5,
    }
    record["per_prompt_results"] = [
        {
            "baseline": {"latency_ms": base, "throughput_tok_s": 50.0},
            "nki": {"latency_ms": nki, "throughput_tok_s": 75.0},
        }
        for base, nki in ((10_000.0, 8_000.0), (12_000.0, 8_500.0))
    ]
    record["absent"] = []
    readme = write_readme(record, "ab12", {})
    assert "| **Total score** | 8.00 | 10.00 | +25.0 % |" in readme
    assert "mean over prompts) | 11,000 ms | 8,250 ms | -25.0 % |" in readme
    assert "| 50.0 tok/s | 75.0 tok/s | +50.0 % |" in readme
    assert "| NKI FLOPS ratio | - | 50.0% | - |" in readme
    assert "does not hold" not in readme


def test_readme_lists_sources_with_their_docstrings_and_escapes_what_people_typed(
    project: Project,
) -> None:
    project.pack()
    with zipfile.ZipFile(project.zip) as archive:
        readme = archive.read("README.md").decode()
    assert "| `kernels/nki_kernels.py` | Kernel file nki_kernels.py. |" in readme
    assert "| `model/layers.py` | The layers \\| that call kernels. |" in readme
    assert "- **Team name**: Tiles \\| Co" in readme
    assert "A &lt;b>, C" in readme
    assert "it \\| works" in readme


# Verifying -----------------------------------------------------------------------------------


def test_verify_runs_the_tests_of_the_archive_itself(project: Project) -> None:
    manifest = project.pack()
    result = verify_archive(project.zip, sys.executable)
    assert result == {
        "schema_version": 1,
        "archive": {
            "sha256": sha256(project.zip.read_bytes()),
            "files": len(EXPECTED_NAMES),
        },
        "commit": "c0ffee",
        "record_sha256": manifest["record_sha256"],
        "tests": {"run": 24, "passed": 24, "kernels": dict.fromkeys(sorted(KERNEL_FILES), 6)},
    }


def _flip(members: dict[str, bytes]) -> None:
    members["kernels/nki_kernels.py"] = members["kernels/nki_kernels.py"].replace(b"K", b"k", 1)


def _grow(members: dict[str, bytes]) -> None:
    members["README.md"] += b"\nScore: 12\n"


def _drop(members: dict[str, bytes]) -> None:
    del members["model/layers.py"]


def _add(members: dict[str, bytes]) -> None:
    members["kernels/nki_secret.py"] = b""


def _drop_manifest(members: dict[str, bytes]) -> None:
    del members["MANIFEST.json"]


def _break_manifest(members: dict[str, bytes]) -> None:
    members["MANIFEST.json"] = b"[]"


def _edit_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["MANIFEST.json"])
        change(manifest)
        members["MANIFEST.json"] = json.dumps(manifest).encode()

    return edit


def _forge_results(members: dict[str, bytes]) -> None:
    """Change the results and every hash of them but the report's."""
    old = members["benchmark_results.json"]
    members["benchmark_results.json"] = new = old.replace(b'"accuracy": 0.8', b'"accuracy": 1.0')
    text = members["MANIFEST.json"].decode().replace(sha256(old), sha256(new))
    members["MANIFEST.json"] = text.encode()


def _forge_kernel(members: dict[str, bytes]) -> None:
    """Change a kernel and its hash in the manifest, but not in the results."""
    old = members["kernels/nki_kernels.py"]
    _flip(members)
    text = (
        members["MANIFEST.json"]
        .decode()
        .replace(sha256(old), sha256(members["kernels/nki_kernels.py"]))
    )
    members["MANIFEST.json"] = text.encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip, r"altered: kernels/nki_kernels\.py does not have the hash"),
        (_grow, r"altered: README\.md does not have the hash"),
        (_drop, r"altered: model/layers\.py is missing"),
        (_add, r"altered: kernels/nki_secret\.py is not in MANIFEST\.json"),
        (_drop_manifest, r"has no MANIFEST\.json"),
        (_break_manifest, "not a usable manifest"),
        (_edit_manifest(lambda m: m.update(schema_version=99)), "schema_version 99, not 1"),
        (_edit_manifest(lambda m: m.update(record_sha256="0" * 64)), "states another record"),
        (_edit_manifest(lambda m: m["files"].pop("LICENSE")), "LICENSE is not in MANIFEST"),
        (_forge_results, r"technical_report\.tex was made from another record"),
        (_forge_kernel, r"kernels/nki_kernels\.py changed since"),
    ],
)
def test_verify_notices_every_alteration(
    project: Project, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    project.pack()
    project.repack(change)
    with pytest.raises(BundleError, match=message):
        verify_archive(project.zip, sys.executable)


@pytest.mark.parametrize(
    "name",
    [
        "../escape.py",
        "/etc/escape.py",
        "a/../../escape.py",
        "a\\..\\escape.py",
        "C:escape.py",
        "./escape.py",
        "a//escape.py",
        "folder/",
        "",
        ".",
        "line\nbreak.py",
        "visible.py\0hidden.sh",
    ],
)
def test_verify_refuses_names_that_leave_the_folder(project: Project, name: str) -> None:
    project.pack()
    with zipfile.ZipFile(project.zip, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = info.orig_filename = name
        archive.writestr(info, b"")
    with pytest.raises(BundleError, match="is not a plain relative file name"):
        verify_archive(project.zip, sys.executable)
    assert not list(project.zip.parent.rglob("escape.py"))


def test_verify_refuses_invalid_results(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.pack()

    def refuse(path: Path) -> None:
        raise RecordError(path, [])

    monkeypatch.setattr(bundle, "load_record", refuse)
    with pytest.raises(BundleError, match="the archive holds invalid results"):
        verify_archive(project.zip, sys.executable)


def test_verify_refuses_links_duplicates_and_bombs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.pack()
    original = project.zip.read_bytes()

    with zipfile.ZipFile(project.zip, "a") as archive:
        link = zipfile.ZipInfo("link.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, b"/etc/passwd")
    with pytest.raises(BundleError, match=r"link\.py is a link"):
        verify_archive(project.zip, sys.executable)

    project.zip.write_bytes(original)
    with zipfile.ZipFile(project.zip, "a") as archive:
        archive.writestr("License", b"second")
    with pytest.raises(BundleError, match="License is in the archive twice"):
        verify_archive(project.zip, sys.executable)

    project.zip.write_bytes(original)
    monkeypatch.setattr(bundle, "_LIMIT_BYTES", 1000)
    with pytest.raises(BundleError, match="1000 at most"):
        verify_archive(project.zip, sys.executable)


@pytest.mark.parametrize("length", [0, 100, -30])
def test_verify_refuses_a_cut_archive(project: Project, length: int) -> None:
    project.pack()
    project.zip.write_bytes(project.zip.read_bytes()[:length])
    with pytest.raises(BundleError, match="not a readable archive"):
        verify_archive(project.zip, sys.executable)


def test_verify_names_an_absent_archive_and_interpreter(project: Project) -> None:
    with pytest.raises(BundleError, match="no archive"):
        verify_archive(project.zip, sys.executable)
    project.pack()
    with pytest.raises(BundleError, match=r"no-python does not start"):
        verify_archive(project.zip, str(project.root / "no-python"))


def test_a_test_that_fails_in_the_archive_is_shown(project: Project) -> None:
    project.change_sources(kernels__specs=SOURCES["kernels/specs.py"] + "EXIT = 1\n")
    project.pack()
    with pytest.raises(BundleError, match=r"(?s)test_nki_kernels\.py.*exit 1.*rmsnorm FAIL"):
        verify_archive(project.zip, sys.executable)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RESULTS['top8']['passed'] = False", "did not pass top8"),
        ("del RESULTS['rope']", "did not pass rope"),
        ("RESULTS['silu'] = {'passed': True, 'refusals': 0}", "ran no case of silu"),
    ],
)
def test_kernels_that_were_not_tested_do_not_count_as_passed(
    project: Project, line: str, message: str
) -> None:
    project.change_sources(kernels__specs=SOURCES["kernels/specs.py"] + line + "\n")
    project.pack()
    with pytest.raises(BundleError, match=message):
        verify_archive(project.zip, sys.executable)


def test_kernels_from_elsewhere_are_noticed(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    Project(elsewhere)
    path = str(elsewhere / "repository")
    project.change_sources(
        nki_sim__install=f"import sys\ndef install():\n    sys.path.insert(0, {path!r})\n"
    )
    project.pack()
    with pytest.raises(BundleError, match=f"would not use the archive's own.*kernels of {path}"):
        verify_archive(project.zip, sys.executable)


def test_a_test_that_hangs_is_ended(project: Project) -> None:
    project.change_sources(test_nki_kernels="import time\ntime.sleep(60)\n")
    project.pack()
    with pytest.raises(BundleError, match=r"test_nki_kernels\.py .* did not end within 1 s"):
        verify_archive(project.zip, sys.executable, timeout_s=1.0)


def test_the_archive_of_this_repository_holds_what_the_challenge_lists(project: Project) -> None:
    record = minimal_record(SOURCES)
    record["provenance"] |= {"kernels": {}, "model_code": {}}
    project.write_results(record)
    project.root = ROOT
    names = project.pack()["files"].keys()
    listed = (
        "nki_custom_rmsnorm.py nki_kernels.py nki_moe_kernels.py nki_attention_kernels.py "
        "qwen_with_nki.py test_nki_kernels.py technical_report.tex technical_report.pdf "
        "benchmark_results.json README.md"
    )
    assert set(listed.split()) <= {Path(name).name for name in names}
    assert {f"kernels/{path.name}" for path in (ROOT / "kernels").glob("nki_*.py")} <= names
    assert {"qwen_with_nki.py", "model/qwen_with_nki.py", "model/qwen.py"} <= names


def test_kernels_of_this_repository_pass_their_tests_unpacked(
    project: Project, tmp_path: Path
) -> None:
    """The real code with results made up for the purpose: everything that a test needs is in.

    All kernels are tested in the real archive, by `.ci/run`.
    """
    record = minimal_record(SOURCES)
    record["provenance"] |= {"kernels": {}, "model_code": {}}
    project.write_results(record)
    project.root = ROOT
    project.pack()
    # What the README promises: numpy and ml_dtypes are enough.
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    installed = Path(numpy.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "ml_dtypes"):
        if (installed / name).exists():
            (libraries / name).symlink_to(installed / name)
    with zipfile.ZipFile(project.zip) as archive:
        archive.extractall(tmp_path / "unpacked")
    done = subprocess.run(
        [sys.executable, "-S", "test_nki_kernels.py", "--kernel", "silu", "lm_head"],
        cwd=tmp_path / "unpacked",
        env={"PYTHONPATH": str(libraries)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
