"""The tiny checkpoint, its tokenizer and both models, made once per session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model import baseline, dispatch, qwen_cpu
from model.tiny import write_tiny_checkpoint
from nki_sim.install import install

# The matrices are so small that threads only wait for one another.
torch.set_num_threads(1)
install()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=0)
    return directory


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> baseline.Baseline:
    return baseline.load(checkpoint, "float32")


@pytest.fixture(scope="session")
def models(checkpoint: Path) -> dict[str, Any]:
    """The model with kernels in float32 by kernel path; tests that change one load their own."""

    class Loaded(dict[str, Any]):
        def __missing__(self, path: str) -> Any:
            self[path] = qwen_cpu.load(checkpoint, "float32", path)
            return self[path]

    return Loaded()


@pytest.fixture(autouse=True)
def no_fallbacks_left_over() -> Iterator[None]:
    dispatch.forget_fallbacks()
    yield
    dispatch.forget_fallbacks()
