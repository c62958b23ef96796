"""Prompts in the file format of the challenge: blocks of text separated by blank lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluation.files import sha256_text

CATEGORIES = (
    "Number puzzle",
    "Programming task",
    "Seating arrangement",
    "Quotation",
    "Needle in a haystack",
)
"""What the challenge asks for at each position of its file, which itself holds no names."""


class PromptError(ValueError):
    """A prompts file that cannot be used."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: its position in the file (from 0), its category and its text."""

    id: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8."""
        return sha256_text(self.text)


def load_prompts(path: Path | str) -> list[Prompt]:
    """Return the prompts of a file, in order; any number above zero is allowed.

    A prompt is a block without blank lines, stripped at both ends, as the challenge's own parser
    reads it. Raises PromptError for a file that is missing, empty or not UTF-8, for a prompt that
    occurs twice, and for a line of spaces between two blocks: it looks like a separator, but the
    challenge's parser would join the blocks.
    """
    text = _read(Path(path))
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.strip():
            raise PromptError(
                f"{path}: line {number} holds only spaces. Prompts are separated by empty lines: "
                "delete the spaces to separate two prompts, or the line to join them."
            )
    blocks = [block.strip() for block in text.split("\n\n") if block.strip()]
    if not blocks:
        raise PromptError(f"{path}: no prompt in this file; write one block of text per prompt")
    _refuse_duplicates(path, blocks)
    return [Prompt(index, prompt_name(index), block) for index, block in enumerate(blocks)]


def prompt_name(prompt_id: int) -> str:
    """Return the category at this position, or "Prompt N" (counted from 1) beyond the fifth."""
    return CATEGORIES[prompt_id] if prompt_id < len(CATEGORIES) else f"Prompt {prompt_id + 1}"


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PromptError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path}: not UTF-8 (byte {error.start}); save it with the encoding UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_duplicates(path: Path | str, blocks: list[str]) -> None:
    first: dict[str, int] = {}
    for index, block in enumerate(blocks):
        if block in first:
            raise PromptError(
                f"{path}: prompts {first[block]} and {index} (counted from 0) are the same text; "
                "a prompt may be evaluated once only"
            )
        first[block] = index
