"""Fetching a checkpoint, against a real HTTP server on loopback that can misbehave."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, REPO, Fault, Hub, serve
from huggingface_hub import constants

from model import fetch as fetch_module
from model import manifest
from model.fetch import FetchError, fetch, resolve

ROOT = Path(__file__).resolve().parents[2]
CHUNK_BYTES = constants.DOWNLOAD_CHUNK_SIZE  # what huggingface_hub writes to the disk at a time
LARGE, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
TOKEN = "hf_secret_of_the_user"
CHECKPOINT = {
    "config.json": b'{"model_type": "qwen3_moe"}\n',
    "generation_config.json": b"{}\n",
    "tokenizer.json": b'{"version": "1.0"}\n',
    "tokenizer_config.json": b'{"model_max_length": 1024}\n',
    "merges.txt": b"a b\n",
    INDEX: json.dumps({"weight_map": {"a": LARGE, "b": SMALL}}).encode(),
    LARGE: random.Random(0).randbytes(CHUNK_BYTES + (2 << 20)),
    SMALL: random.Random(1).randbytes(300_000),
}
NOT_NEEDED = {
    "README.md": b"# A card\n",
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "pytorch_model.bin": b"pickle",
    "onnx/config.json": b"{}",
}
Fetch = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_traces_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(fetch_module, "PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(CHECKPOINT | NOT_NEEDED) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def run(hub: Hub, folder: Path) -> Fetch:
    """Fetch from the server with the ordinary arguments, any of which a test replaces."""

    def call(**changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "repo_id": REPO,
            "revision": COMMIT,
            "directory": folder,
            "manifest_path": folder.parent / "manifest.json",
            "endpoint": hub.url,
        }
        return fetch(**(arguments | changes))

    return call


def assert_fetched(folder: Path) -> None:
    """The folder holds the checkpoint and nothing else, and its manifest is true."""
    present = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert present == CHECKPOINT
    manifest.verify(folder, manifest.read(folder.parent / "manifest.json"))


def assert_no_result(folder: Path) -> None:
    assert not (folder.parent / "manifest.json").exists()


# The ordinary day ----------------------------------------------------------------------------


def test_fetches_what_is_needed_smallest_first_and_nothing_else(
    hub: Hub, folder: Path, run: Fetch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run()
    assert_fetched(folder)
    assert sorted(hub.requested()) == sorted(CHECKPOINT)
    assert hub.requested()[-2:] == [SMALL, LARGE]
    assert result["source"] == {
        "kind": "hugging_face_hub",
        "repo_id": REPO,
        "revision": COMMIT,
    }
    progress = capsys.readouterr().err
    assert f"[8/8] {LARGE} (12.58 MB)" in progress
    assert "8 files of tiny/moe verified" in progress


def test_a_second_run_requests_no_file_again(hub: Hub, folder: Path, run: Fetch) -> None:
    first = run()
    hub.requests.clear()
    assert run() == first
    assert [(request.method, request.name) for request in hub.requests] == [("GET", "")]
    assert_fetched(folder)


def test_the_endpoint_comes_from_the_environment(
    hub: Hub, folder: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    run(endpoint=None)
    assert_fetched(folder)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_the_token_reaches_the_hub_alone_and_is_written_nowhere(
    hub: Hub,
    folder: Path,
    run: Fetch,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if how == "environment":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    run(token=TOKEN if how == "argument" else None)
    at_hub = [request for request in hub.requests if not request.on_cdn]
    assert {request.authorization for request in at_hub} == {f"Bearer {TOKEN}"}
    assert {request.authorization for request in hub.requests if request.on_cdn} == {None}
    for path in folder.parent.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in "".join(capfd.readouterr())


def test_resolve_prints_the_commit_of_a_branch(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve(REPO, "main", endpoint=hub.url) == COMMIT
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert fetch_module.main([REPO, "main"]) == 0
    assert capsys.readouterr().out == COMMIT + "\n"
    assert fetch_module.main([REPO, "absent"]) == 1
    assert "has no revision absent" in capsys.readouterr().err


# Refused before the first byte ---------------------------------------------------------------


@pytest.mark.parametrize("revision", ["main", "v1.0", "", COMMIT[:12], COMMIT.upper()])
def test_a_moving_revision_is_refused_with_the_remedy(
    hub: Hub, folder: Path, run: Fetch, revision: str
) -> None:
    with pytest.raises(FetchError, match=f"full commit.*python3 -m model.fetch {REPO} "):
        run(revision=revision)
    assert hub.requests == []
    assert_no_result(folder)


def test_a_full_disk_is_refused_before_the_first_byte(
    hub: Hub, folder: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.listing[LARGE] = {"size": 61_100_000_000}
    usage = namedtuple("usage", "total used free")(10**12, 10**12, 12_300_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = rf"{folder}.*61\.1 GB still to fetch, 12\.3 GB free\. Free 48\.8 GB.*model\.path"
    with pytest.raises(FetchError, match=message):
        run()
    assert hub.requested() == []
    assert_no_result(folder)


def test_space_for_what_is_there_already_is_not_asked_for(
    folder: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    (folder / SMALL).unlink()
    usage = namedtuple("usage", "total used free")(10**12, 10**12, len(CHECKPOINT[SMALL]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    run()
    assert_fetched(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "pickled weights only"),
        ({"config.json": b"{}"}, "no safetensors weights"),
        ({"config.json": b"{}", LARGE: b"shard without an index"}, "no safetensors weights"),
        ({"model.safetensors": b"x"}, "no config.json"),
    ],
)
def test_a_repository_without_usable_weights_is_refused(
    hub: Hub, folder: Path, run: Fetch, files: dict[str, bytes], message: str
) -> None:
    hub.files = files
    with pytest.raises(FetchError, match=message):
        run()
    assert hub.requested() == []
    assert_no_result(folder)


def test_a_listing_without_hashes_or_of_another_commit_is_refused(hub: Hub, run: Fetch) -> None:
    hub.listing["config.json"] = {"blobId": None}
    with pytest.raises(FetchError, match=r"no hash for config\.json"):
        run()
    hub.refs[COMMIT] = "f" * 40
    with pytest.raises(FetchError, match="answered with commit ffff"):
        run()


def test_a_folder_with_another_model_is_refused(hub: Hub, folder: Path, run: Fetch) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"of another model")
    with pytest.raises(FetchError, match=r"holds model\.safetensors, which tiny/moe does not"):
        run()
    assert hub.requested() == []
    assert (folder / "model.safetensors").read_bytes() == b"of another model"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, run: Fetch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match=r"cannot make the folder .*set model\.path"):
        run(directory=tmp_path / "file" / "model")


def test_offline_mode_is_explained(tmp_path: Path, hub: Hub, folder: Path) -> None:
    process = _fetch_process(hub, folder, HF_HUB_OFFLINE="1")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set. Unset it" in errors
    assert hub.requests == []


def test_an_unreachable_hub_is_given_up_after_a_bounded_number_of_attempts(
    folder: Path, run: Fetch
) -> None:
    message = r"connection to http://127\.0\.0\.1:9 fails .*also after 4 attempts"
    with pytest.raises(FetchError, match=message) as caught:
        run(endpoint="http://user:password@127.0.0.1:9")  # nothing listens there
    assert "password" not in str(caught.value)
    assert_no_result(folder)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "GatedRepo", "Access is restricted"), "is gated: accept its terms on .*HF_TOKEN"),
        ((401, "GatedRepo", "Access is restricted"), "is gated: accept its terms on .*HF_TOKEN"),
        ((401, "RepoNotFound", "Repository not found"), "no access to .*HTTP 401.*HF_TOKEN"),
        ((401, "", "Invalid credentials in Authorization header"), "HTTP 401.*may have expired"),
        ((404, "RepoNotFound", "Repository not found"), "no access .*spelling of model.repo_id"),
        ((404, "RevisionNotFound", "Invalid rev id"), "has no revision .*prints the newest commit"),
        ((418, "", "teapot"), "answered with HTTP 418"),
    ],
)
def test_refusals_of_the_hub_are_explained_at_once(
    hub: Hub, folder: Path, run: Fetch, refusal: tuple[int, str, str], message: str
) -> None:
    hub.refuse = refusal
    with pytest.raises(FetchError, match=message):
        run()
    assert len(hub.requests) == 1
    assert_no_result(folder)


def test_a_name_that_is_no_repository_is_explained(run: Fetch) -> None:
    with pytest.raises(FetchError, match="is not a repository's name"):
        run(repo_id="a/b/c")


# Bad days ------------------------------------------------------------------------------------


def test_a_busy_hub_is_asked_again(hub: Hub, folder: Path, run: Fetch) -> None:
    hub.listing_status = [503, 429]
    run()
    assert_fetched(folder)


def test_a_cut_connection_is_continued_not_started_over(hub: Hub, folder: Path, run: Fetch) -> None:
    hub.faults[LARGE] = Fault(cut_after_bytes=CHUNK_BYTES + (1 << 20), times=1)
    run()
    assert hub.ranges(LARGE) == [None, f"bytes={CHUNK_BYTES}-"]
    assert_fetched(folder)


def test_a_connection_that_always_dies_is_given_up_and_continued_by_the_next_run(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    hub.faults[LARGE] = Fault(cut_after_bytes=1 << 20)
    with pytest.raises(FetchError, match=r"also after 4 attempts.*cut file continues"):
        run()
    assert len(hub.ranges(LARGE)) == fetch_module.ATTEMPTS
    assert_no_result(folder)
    assert not (folder / LARGE).exists()

    hub.faults.clear()
    hub.requests.clear()
    run()
    assert hub.requested() == [LARGE]
    assert_fetched(folder)


def test_a_bad_line_gets_a_file_through_as_long_as_bytes_arrive(
    hub: Hub, folder: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 20)
    hub.faults[LARGE] = Fault(cut_after_bytes=(1 << 20) + 1000)  # one new chunk per request
    run()
    assert len(hub.ranges(LARGE)) == 12 > fetch_module.ATTEMPTS
    assert_fetched(folder)


def test_a_connection_that_goes_silent_is_left_and_continued(
    hub: Hub, folder: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults[LARGE] = Fault(stall_after_bytes=CHUNK_BYTES + (1 << 20), times=1)
    run()
    assert hub.ranges(LARGE) == [None, f"bytes={CHUNK_BYTES}-"]
    assert_fetched(folder)


def test_a_slow_server_is_waited_for(hub: Hub, folder: Path, run: Fetch) -> None:
    hub.faults[SMALL] = Fault(pause_s=0.1)
    run()
    assert hub.ranges(SMALL) == [None]
    assert_fetched(folder)


def test_a_killed_process_leaves_no_result_and_the_next_run_continues(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    hub.faults[LARGE] = Fault(stall_after_bytes=CHUNK_BYTES + (1 << 20), times=1)
    process = _fetch_process(hub, folder)
    deadline = time.monotonic() + 30
    while _partial_bytes(folder) < CHUNK_BYTES:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert_no_result(folder)
    assert not (folder / LARGE).exists()

    hub.requests.clear()
    run()
    assert hub.requested() == [LARGE]
    assert hub.requested("HEAD") == [LARGE]
    assert hub.ranges(LARGE) == [f"bytes={CHUNK_BYTES}-"]
    assert_fetched(folder)


def test_a_killed_process_leaves_no_manifest_of_an_earlier_model(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    run()
    (folder / "config.json").write_text("edited")
    hub.faults["config.json"] = Fault(corrupt=True)
    with pytest.raises(FetchError):
        run()
    assert_no_result(folder)


@pytest.mark.parametrize("name", ["config.json", SMALL])
def test_damaged_bytes_are_fetched_once_more(
    hub: Hub, folder: Path, run: Fetch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults[name] = Fault(corrupt=True, times=1)
    run()
    assert hub.requested().count(name) == 2
    assert "fetching it again from the start" in capsys.readouterr().err
    assert_fetched(folder)


@pytest.mark.parametrize(("name", "kind"), [("config.json", "git blob id"), (SMALL, "SHA-256")])
def test_bytes_that_stay_damaged_are_refused_and_removed(
    hub: Hub, folder: Path, run: Fetch, name: str, kind: str
) -> None:
    hub.faults[name] = Fault(corrupt=True)
    with pytest.raises(FetchError, match=f"{name} of tiny/moe arrived damaged twice: its {kind}"):
        run()
    assert not (folder / name).exists()
    assert_no_result(folder)


def test_a_file_damaged_on_the_disk_is_noticed_and_fetched_again(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    run()
    path = folder / SMALL
    before = path.stat()
    path.write_bytes(bytes(len(CHECKPOINT[SMALL])))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk would do it
    hub.requests.clear()
    run()
    assert hub.requested() == [SMALL]
    assert_fetched(folder)


def test_a_partial_file_of_wrong_bytes_or_length_does_not_survive(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    for size in (CHUNK_BYTES, len(CHECKPOINT[LARGE]) + 1):
        hub.faults[LARGE] = Fault(cut_after_bytes=1 << 20)
        with pytest.raises(FetchError):
            run()
        hub.faults.clear()
        (partial,) = (folder / ".cache" / "huggingface" / "download").glob("*.incomplete")
        partial.write_bytes(bytes(size))
        run()
        assert_fetched(folder)
        (folder / LARGE).unlink()


def test_a_file_that_another_host_serves_too_short_is_refused(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    hub.faults[SMALL] = Fault(served_bytes=1000)
    with pytest.raises(FetchError, match="it has 1000 bytes, the hub states 300000"):
        run()
    assert not (folder / SMALL).exists()
    assert_no_result(folder)


def test_a_body_shorter_than_announced_is_refused(hub: Hub, folder: Path, run: Fetch) -> None:
    hub.faults[SMALL] = Fault(body_bytes=1000)
    with pytest.raises(FetchError, match="another length than it states"):
        run()
    assert not (folder / SMALL).exists()
    assert_no_result(folder)


def test_a_wrong_size_in_the_listing_is_refused(hub: Hub, folder: Path, run: Fetch) -> None:
    hub.listing["merges.txt"] = {"size": 5}
    with pytest.raises(FetchError, match="it has 4 bytes, the hub states 5"):
        run()
    assert_no_result(folder)


def test_a_listed_file_that_the_hub_does_not_have_is_explained(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    hub.faults[SMALL] = Fault(missing=True)
    with pytest.raises(FetchError, match=f"does not have it .*{SMALL}.*upload is incomplete"):
        run()
    assert_no_result(folder)


def test_a_shard_that_only_the_index_knows_is_refused_before_any_large_file(
    hub: Hub, folder: Path, run: Fetch
) -> None:
    del hub.files[SMALL]
    with pytest.raises(FetchError, match=f"lacks {SMALL}, which its {INDEX} names"):
        run()
    assert LARGE not in hub.requested()
    assert_no_result(folder)


@pytest.mark.parametrize("content", [b"not json", b"{}", b"[]", b'{"weight_map": null}'])
def test_a_senseless_index_is_refused(hub: Hub, run: Fetch, content: bytes) -> None:
    hub.files[INDEX] = content
    with pytest.raises(FetchError, match="not a usable index"):
        run()


def test_a_disk_that_fills_up_meanwhile_is_explained(
    hub: Hub, folder: Path, run: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_module, "hf_hub_download", fill)
    with pytest.raises(FetchError, match="filled up while fetching"):
        run()
    assert_no_result(folder)


# Helpers -------------------------------------------------------------------------------------


def _fetch_process(hub: Hub, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a fetch in a process of its own, which can be killed."""
    code = (
        "import sys; from pathlib import Path; from model.fetch import FetchError, fetch\n"
        "repo, commit, folder, manifest, url = sys.argv[1:]\n"
        "try: fetch(repo, commit, Path(folder), Path(manifest), url)\n"
        "except FetchError as error: sys.exit(str(error))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        REPO,
        COMMIT,
        str(folder),
        str(folder.parent / "manifest.json"),
        hub.url,
    ]
    home = {"HF_HOME": str(folder.parent / "home"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        env=os.environ | home | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _partial_bytes(folder: Path) -> int:
    partials = (folder / ".cache" / "huggingface" / "download").glob("*.incomplete")
    return sum(path.stat().st_size for path in partials)
