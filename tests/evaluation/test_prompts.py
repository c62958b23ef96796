"""The prompts file: the challenge's format, our five prompts, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.files import sha256_text
from evaluation.prompts import CATEGORIES, PromptError, load_prompts

ROOT = Path(__file__).resolve().parents[2]
ORGANISERS = ROOT.parent / "shared" / "contest" / "prompts.txt"


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_our_prompts_are_five_in_the_categories() -> None:
    prompts = load_prompts(ROOT / "config" / "prompts.txt")
    assert [prompt.id for prompt in prompts] == [0, 1, 2, 3, 4]
    assert tuple(prompt.name for prompt in prompts) == CATEGORIES
    lengths = [len(prompt.text) for prompt in prompts]
    assert sorted(range(5), key=lengths.__getitem__) == [3, 0, 2, 1, 4]
    assert "<most_relevant_sentence>" in prompts[4].text
    assert prompts[0].sha256 == sha256_text(prompts[0].text)


@pytest.mark.skipif(not ORGANISERS.exists(), reason="the organisers' file is not here")
def test_the_organisers_file_parses() -> None:
    theirs = load_prompts(ORGANISERS)
    ours = load_prompts(ROOT / "config" / "prompts.txt")
    assert len(theirs) == 5
    assert not {prompt.text for prompt in theirs} & {prompt.text for prompt in ours}


def test_blocks_are_stripped_and_named_by_position(tmp_path: Path) -> None:
    text = "\n\nfirst\nline two\r\n\r\n\r\nsecond\n\n" + "\n\n".join("cdef")
    prompts = load_prompts(write(tmp_path, "\ufeff" + text))
    assert [prompt.text for prompt in prompts] == ["first\nline two", "second", *"cdef"]
    assert prompts[5].name == "Prompt 6"


def test_text_that_other_programs_would_read_differently_stays_as_it_is(tmp_path: Path) -> None:
    hostile = (
        r"""\write18{touch x} {y} {{z}} $(touch x) `touch x` %s %(a)s \n \x00 "' <b> ; & | #"""
    )
    (prompt,) = load_prompts(write(tmp_path, hostile))
    assert prompt.text == hostile and prompt.sha256 == sha256_text(hostile)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no prompt"),
        ("\n\n\n", "no prompt"),
        (b"caf\xe9", "not UTF-8"),
        ("a\n\nb\n\na", "0 and 2"),
        ("a\n \nb", "line 2 holds only spaces"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PromptError, match=problem) as raised:
        load_prompts(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read"):
        load_prompts(tmp_path / "none.txt")
