"""The language check of the kernels' sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.language import LanguageError, check_language, kernel_sources

KERNEL = """
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    {statement}
    nisa.dma_copy(dst=out, src=x)
    return out
"""


def test_the_projects_kernels_are_in_the_language_of_every_release() -> None:
    checked = check_language(kernel_sources())
    assert checked["sdk_versions"][0] == "2.27"
    assert checked["warnings"] == []


def test_only_collectives_are_beyond_the_first_release() -> None:
    """They came with 2.28; every other file of kernels is checked for all releases."""
    kernels = kernel_sources()[0].parent
    others = {file.name for file in kernels.glob("nki_*_kernels.py")} - {
        file.name for file in kernel_sources()
    }
    assert others == {"nki_collective_kernels.py", "nki_decode_ranks_kernels.py"}
    for name in others:
        with pytest.raises(LanguageError, match=r"nki\.collectives\.all_reduce.*\(SDK 2\.27\)$"):
            check_language([kernels / name])


def test_what_a_compiler_refuses_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "nki_broken_kernels.py"
    path.write_text(KERNEL.format(statement="sizes = [size for size in x.shape]"))
    with pytest.raises(LanguageError, match=r"nki_broken_kernels.py:10:\d+: error \[comprehension"):
        check_language([path])


def test_a_plain_kernel_passes(tmp_path: Path) -> None:
    path = tmp_path / "nki_plain_kernels.py"
    path.write_text(KERNEL.format(statement="rows = x.shape[0]"))
    assert check_language([path])["warnings"] == []
