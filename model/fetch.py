"""Fetch a checkpoint from the Hugging Face hub: pinned, resumable, verified.

The order is what makes it safe. The hub is first asked for names, sizes and hashes at one commit;
the disk is checked before the first byte; small files come first, so that an index which names a
missing shard fails in seconds; each file is verified against the hub's hash as it arrives; the
manifest is written last. Whatever stops it, a rerun takes up where it stopped: finished files are
not requested again and a cut file continues from its last byte.

    python3 -m model.fetch Qwen/Qwen3-30B-A3B main      prints the commit to put in model.revision
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling

from model import manifest

Progress = Callable[[str], None]
Result = TypeVar("Result")

PAUSES_S = (1.0, 4.0, 10.0)  # between attempts that bring no new byte
ATTEMPTS = len(PAUSES_S) + 1  # in a row; the library itself tries each request a few times
_LISTING_TIMEOUT_S = 30.0
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class FetchError(RuntimeError):
    """The checkpoint cannot be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class HubFile:
    """One file as the hub's listing states it.

    The hub keeps large files outside git and knows their SHA-256; for the others it knows git's
    blob id, the SHA-1 of a short header and the content.
    """

    name: str
    size_bytes: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class _Hub:
    """Where a checkpoint comes from and where it goes."""

    repo_id: str
    revision: str
    endpoint: str
    token: str | None
    directory: Path


def fetch(
    repo_id: str,
    revision: str,
    directory: Path,
    manifest_path: Path,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fetch the checkpoint `repo_id` at commit `revision` into `directory`; return its manifest.

    `revision` must be a full commit: a branch may move between two runs (`resolve` translates).
    `endpoint` falls back on HF_ENDPOINT and then on the public hub, `token` on HF_TOKEN and the
    token that `huggingface-cli login` stored; neither is written anywhere. `progress` receives one
    line per file (stderr by default). Raises FetchError. A manifest of an earlier run is removed
    before the first file is touched, so that one which exists is always true.
    """
    _require_commit(repo_id, revision)
    say = progress or _to_stderr
    hub = _Hub(repo_id, revision, _endpoint(endpoint), token, directory)
    with _plain_http():
        files = _select(hub, _list_files(hub))
        _require_folder(hub, files)
        _require_space(hub, files)
        manifest_path.unlink(missing_ok=True)
        entries = _download_all(hub, files, say)
    source = {"kind": "hugging_face_hub", "repo_id": repo_id, "revision": revision}
    return manifest.write_manifest(directory, manifest_path, source, entries)


def resolve(repo_id: str, ref: str, endpoint: str | None = None, token: str | None = None) -> str:
    """Return the commit that a branch or tag of `repo_id` names now."""
    hub = _Hub(repo_id, ref, _endpoint(endpoint), token, Path())
    commit = _patiently(hub, lambda: _model_info(hub).sha)
    if not commit:
        raise FetchError(f"{hub.endpoint} does not say which commit {ref} of {repo_id} is")
    return commit


def main(arguments: list[str] | None = None) -> int:
    """Print the commit that a branch or tag names; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python3 -m model.fetch", description=main.__doc__)
    parser.add_argument("repo_id", help="repository on the hub, such as Qwen/Qwen3-30B-A3B")
    parser.add_argument("ref", help="branch or tag, such as main")
    options = parser.parse_args(arguments)
    try:
        print(resolve(options.repo_id, options.ref))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


# What to fetch -------------------------------------------------------------------------------


def _list_files(hub: _Hub) -> list[HubFile]:
    info = _patiently(hub, lambda: _model_info(hub))
    if info.sha != hub.revision:
        raise FetchError(
            f"{hub.endpoint} answered with commit {info.sha} of {hub.repo_id}, "
            f"asked for {hub.revision}; is HF_ENDPOINT a mirror without history?"
        )
    return [_hub_file(hub, sibling) for sibling in info.siblings or []]


def _model_info(hub: _Hub) -> Any:
    # With token=None the library looks up HF_TOKEN, then what `huggingface-cli login` stored.
    return HfApi(endpoint=hub.endpoint, token=hub.token).model_info(
        hub.repo_id, revision=hub.revision, files_metadata=True, timeout=_LISTING_TIMEOUT_S
    )


def _hub_file(hub: _Hub, sibling: RepoSibling) -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    if sibling.size is None or not (sha256 or sibling.blob_id):
        raise FetchError(
            f"{hub.endpoint} states no size or no hash for {sibling.rfilename} of {hub.repo_id}, "
            "so the download could not be verified; use the public hub (unset HF_ENDPOINT)"
        )
    return HubFile(sibling.rfilename, sibling.size, sha256, sibling.blob_id)


def _select(hub: _Hub, listing: Iterable[HubFile]) -> list[HubFile]:
    """Keep what a checkpoint needs, smallest first; refuse a repository without safetensors."""
    listing = list(listing)
    files = [file for file in listing if manifest.is_checkpoint_file(file.name)]
    names = {file.name for file in files}
    if not names & {_INDEX, _SINGLE}:
        pickled = any(file.name.endswith((".bin", ".pt", ".pth")) for file in listing)
        raise FetchError(
            f"{hub.repo_id} at {hub.revision} has no safetensors weights "
            f"({_SINGLE} or {_INDEX})"
            + (
                "; it has pickled weights only, which can run code when they are loaded and are "
                "not fetched: choose a revision or a repository with safetensors"
                if pickled
                else ": check model.repo_id and model.revision"
            )
        )
    if "config.json" not in names:
        raise FetchError(f"{hub.repo_id} at {hub.revision} has no config.json: not a model")
    return sorted(files, key=lambda file: (file.size_bytes, file.name))


def _require_shards(hub: _Hub, files: Iterable[HubFile]) -> None:
    """Refuse an index that names a shard which the repository does not hold."""
    names = {file.name for file in files}
    try:
        index = json.loads((hub.directory / _INDEX).read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FetchError(f"{_INDEX} of {hub.repo_id} is not a usable index: {error!r}") from error
    if missing := sorted(shards - names):
        raise FetchError(
            f"{hub.repo_id} at {hub.revision} lacks {', '.join(missing)}, which its {_INDEX} "
            "names: the upload is incomplete; choose another model.revision"
        )


# Before the first byte -----------------------------------------------------------------------


def _require_commit(repo_id: str, revision: str) -> None:
    if not _COMMIT.fullmatch(revision):
        raise FetchError(
            f"model.revision must be a full commit (40 lower-case hexadecimal digits), not "
            f"{revision!r}: a branch or tag may move, and the results would no longer be those of "
            f"one model. `python3 -m model.fetch {repo_id} {revision or 'main'}` prints the commit "
            "to put there"
        )


def _require_folder(hub: _Hub, files: Iterable[HubFile]) -> None:
    """Refuse a folder with files of another model beside which the new ones would be ambiguous."""
    try:
        hub.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(
            f"cannot make the folder {hub.directory}: {error.strerror}; set model.path to another"
        ) from error
    foreign = set(manifest.checkpoint_names(hub.directory)) - {file.name for file in files}
    if foreign:
        raise FetchError(
            f"{hub.directory} holds {', '.join(sorted(foreign))}, which {hub.repo_id} does not "
            "have and a loader would read: remove what is there or give model.path another folder"
        )


def _require_space(hub: _Hub, files: Iterable[HubFile]) -> None:
    missing = [file for file in files if not _has_size(hub.directory, file)]
    needed_bytes = sum(file.size_bytes for file in missing) - _partial_bytes(hub.directory)
    free_bytes = shutil.disk_usage(hub.directory).free
    if needed_bytes > free_bytes:
        raise FetchError(
            f"not enough disk space in {hub.directory.resolve()} for {hub.repo_id}: "
            f"{_gigabytes(needed_bytes)} still to fetch, {_gigabytes(free_bytes)} free. Free "
            f"{_gigabytes(needed_bytes - free_bytes)} there or set model.path to a larger disk"
        )


def _has_size(directory: Path, file: HubFile) -> bool:
    path = directory / file.name
    return path.is_file() and path.stat().st_size == file.size_bytes


def _partials(directory: Path) -> list[Path]:
    """Return the cut downloads that huggingface_hub keeps beside the files."""
    return list((directory / ".cache" / "huggingface" / "download").glob("*.incomplete"))


def _partial_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in _partials(directory))


# Downloading ---------------------------------------------------------------------------------


def _download_all(hub: _Hub, files: list[HubFile], say: Progress) -> dict[str, dict[str, Any]]:
    """Fetch and verify every file; return the manifest's entries, names sorted."""
    total_bytes, done_bytes = sum(file.size_bytes for file in files), 0
    entries = {}
    for number, file in enumerate(files, 1):
        say(
            f"[{number}/{len(files)}] {file.name} ({_gigabytes(file.size_bytes)}); "
            f"{_gigabytes(done_bytes)} of {_gigabytes(total_bytes)} done"
        )
        entries[file.name] = _fetch_verified(hub, file, say)
        done_bytes += file.size_bytes
        if file.name == _INDEX:
            _require_shards(hub, files)
    say(f"{len(files)} files of {hub.repo_id} verified, {_gigabytes(total_bytes)}")
    return dict(sorted(entries.items()))


def _fetch_verified(hub: _Hub, file: HubFile, say: Progress) -> dict[str, Any]:
    """Fetch one file and check its hash; what arrives damaged is fetched once more, from zero."""
    for last in (False, True):
        _patiently(hub, lambda: _download(hub, file))
        entry, problem = _examine(hub.directory / file.name, file)
        if problem is None:
            return entry
        _discard(hub, file)
        if not last:
            say(f"{file.name}: {problem}; fetching it again from the start")
    raise FetchError(
        f"{file.name} of {hub.repo_id} arrived damaged twice: {problem}. It was removed. "
        "Check the disk, the proxy and HF_ENDPOINT, then run again: finished files are kept"
    )


def _download(hub: _Hub, file: HubFile) -> None:
    """Let huggingface_hub put one file into the folder; a partial file is continued."""
    try:
        hf_hub_download(
            hub.repo_id,
            file.name,
            revision=hub.revision,
            local_dir=hub.directory,
            endpoint=hub.endpoint,
            token=hub.token,
        )
    except (HfHubHTTPError, OSError) as error:
        if _is_damaged_partial(error):
            _discard(hub, file)
            raise _DamagedPartialError(str(error)) from error
        raise


class _DamagedPartialError(Exception):
    """A partial file does not fit what the server has: dropped, to be fetched from the start."""


def _is_damaged_partial(error: Exception) -> bool:
    """Recognise a partial file longer than the whole (416) or a body of an unannounced length."""
    if isinstance(error, HfHubHTTPError):
        return _status(error) == 416
    return "Consistency check failed" in str(error)


def _discard(hub: _Hub, file: HubFile) -> None:
    for path in (hub.directory / file.name, *_partials(hub.directory)):
        path.unlink(missing_ok=True)


def _examine(path: Path, file: HubFile) -> tuple[dict[str, Any], str | None]:
    """Hash a file; return its manifest entry and what differs from the hub's listing, if any."""
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes:
        return {}, f"it has {size_bytes} bytes, the hub states {file.size_bytes}"
    sha256 = manifest.sha256_file(path)
    if file.sha256 is not None:
        kind, actual, expected = "SHA-256", sha256, file.sha256
    else:
        kind, actual, expected = "git blob id", _git_blob_id(path), file.blob_id or ""
    problem = None if actual == expected else f"its {kind} is {actual}, the hub states {expected}"
    return {"sha256": sha256, "size_bytes": size_bytes}, problem


def _git_blob_id(path: Path) -> str:
    content = path.read_bytes()  # files kept in git are small
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _plain_http() -> Iterator[None]:
    """Use HTTP alone, which continues a cut file; Xet and hf_transfer would start it over."""
    switches = {"HF_HUB_DISABLE_XET": True, "HF_HUB_ENABLE_HF_TRANSFER": False}
    before = {name: getattr(constants, name) for name in switches}
    try:
        for name, value in switches.items():
            setattr(constants, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)


# Failures ------------------------------------------------------------------------------------


def _patiently(hub: _Hub, action: Callable[[], Result]) -> Result:
    """Repeat `action` over passing failures of the network, else raise a FetchError.

    It gives up after ATTEMPTS attempts in a row that brought no new byte: a bad line still gets a
    large file through, and an unreachable server does not hold the job for ever.
    """
    attempt, best_bytes = 1, _partial_bytes(hub.directory)
    while True:
        try:
            return action()
        except (requests.RequestException, OSError, ValueError, _DamagedPartialError) as error:
            received_bytes = _partial_bytes(hub.directory)
            attempt = 1 if received_bytes > best_bytes else attempt + 1
            best_bytes = max(best_bytes, received_bytes)
            if attempt > ATTEMPTS or not _is_transient(error):
                raise _explain(hub, error) from error
            time.sleep(PAUSES_S[max(attempt - 2, 0)])


def _is_transient(error: Exception) -> bool:
    if isinstance(error, LocalEntryNotFoundError):  # how the library reports an unreachable hub
        return isinstance(error.__cause__, Exception) and _is_transient(error.__cause__)
    if isinstance(error, requests.HTTPError):
        return _status(error) in _TRANSIENT_STATUS
    return isinstance(
        error,
        (
            _DamagedPartialError,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ),
    )


def _status(error: requests.HTTPError) -> int | None:
    return None if error.response is None else error.response.status_code


def _explain(hub: _Hub, error: Exception) -> FetchError:
    """Turn a library's exception into what was wrong and what to do."""
    what = f"{hub.repo_id} at {hub.revision}"
    cause: BaseException = error
    while isinstance(cause, LocalEntryNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OfflineModeIsEnabled):
        return FetchError(
            f"cannot fetch {what}: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set. Unset it, or "
            "set model.repo_id to null and model.path to a folder that holds the model"
        )
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return FetchError(
            f"the disk of {hub.directory.resolve()} filled up while fetching {what}; free space "
            "there and run again: it continues where it stopped"
        )
    if isinstance(cause, HFValidationError):
        return FetchError(f"model.repo_id {hub.repo_id!r} is not a repository's name: {cause}")
    if isinstance(cause, requests.HTTPError):
        return FetchError(_explain_status(hub, what, cause))
    if isinstance(cause, _DamagedPartialError):
        return FetchError(
            f"{_without_secrets(hub.endpoint)} sends a file of {what} with another length than it "
            f"states, also after {ATTEMPTS} attempts: {cause}. Check the proxy and HF_ENDPOINT"
        )
    if isinstance(cause, requests.RequestException):
        return FetchError(
            f"the connection to {_without_secrets(hub.endpoint)} fails while fetching {what} "
            f"({type(cause).__name__}), also after {ATTEMPTS} attempts. Check network, proxy and "
            "HF_ENDPOINT, then run again: finished files are kept and a cut file continues"
        )
    return FetchError(f"cannot fetch {what}: {cause}")


def _explain_status(hub: _Hub, what: str, error: requests.HTTPError) -> str:
    page = f"{_without_secrets(hub.endpoint)}/{hub.repo_id}"
    if isinstance(error, GatedRepoError):
        return (
            f"{hub.repo_id} is gated: accept its terms on {page} and set HF_TOKEN to a token of "
            "that account (with read access to gated repositories)"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{hub.repo_id} has no revision {hub.revision}: check model.revision; "
            f"`python3 -m model.fetch {hub.repo_id} main` prints the newest commit"
        )
    if isinstance(error, EntryNotFoundError):
        address = "" if error.response is None else f" ({error.response.url})"
        return (
            f"the hub lists a file of {what} and does not have it{address}: "
            "the upload is incomplete; choose another model.revision"
        )
    status = _status(error)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        return (
            f"no access to {page} (HTTP {status}): check the spelling of model.repo_id; if the "
            "repository is private, set HF_TOKEN to a token that may read it; if HF_TOKEN is set, "
            "it may have expired"
        )
    return f"{page} answered with HTTP {status} while fetching {what}; try again later"


def _endpoint(endpoint: str | None) -> str:
    return (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _without_secrets(url: str) -> str:
    """Drop a user name and password from an address before it is shown."""
    return re.sub(r"//[^/@]*@", "//", url)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 5e7 else f"{size_bytes / 1e6:.2f} MB"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
