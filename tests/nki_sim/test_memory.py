"""Capacity, uninitialised memory, start partitions and PSUM accumulation."""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from nki_sim.errors import IllegalProgram, UninitialisedRead

from .support import in_kernel, loaded, tile, values


def test_partial_writes_are_tracked_element_by_element() -> None:
    def body() -> None:
        part = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.sbuf, name="part")
        nisa.memset(dst=part[:, 0:5], value=0)
        nisa.memset(dst=part[0:2, 5:8], value=0)
        out = tile((4, 8))
        nisa.tensor_copy(dst=out[:, 0:5], src=part[:, 0:5])
        nisa.tensor_copy(dst=out, src=part)

    with pytest.raises(UninitialisedRead, match=r"part \(4, 8\) float32 in sbuf.*\(2, 5\)"):
        in_kernel(body)


def test_writing_in_pieces_completes_a_tile() -> None:
    def body() -> int:
        part = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=part[:, 0:5], value=0)
        nisa.memset(dst=part[:, 3:8], value=0)
        return part.storage.unwritten

    assert in_kernel(body) == 0


def test_half_of_a_wider_type_is_not_enough() -> None:
    def body() -> None:
        words = nl.ndarray((2, 4), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=words.view(nl.uint16)[:, 0:7], value=0)
        nisa.tensor_copy(dst=tile((2, 4)), src=words)

    with pytest.raises(UninitialisedRead, match=r"\(0, 3\)"):
        in_kernel(body)


def test_unwritten_outputs_are_refused_at_return() -> None:
    @nki.jit
    def half(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out[0:2], src=x[0:2])
        return out

    with pytest.raises(UninitialisedRead, match=r"half: the result.*\(2, 0\)"):
        half(np.zeros((4, 3), np.float32))


@pytest.mark.parametrize("buffer", [nl.sbuf, nl.psum, nl.private_hbm, nl.hbm])
def test_outputs_are_in_shared_hbm(buffer: object) -> None:
    def kernel():
        return nl.ndarray((4, 4), dtype=nl.float32, buffer=buffer)

    with pytest.raises(IllegalProgram, match="shared_hbm"):
        nki.jit(kernel)()


@pytest.mark.parametrize(
    ("rows", "start", "legal"),
    [
        (32, 96, True),
        (1, 32, True),
        (64, 64, True),
        (1, 16, False),
        (64, 32, False),
        (96, 32, False),
    ],
)
def test_start_partitions(rows: int, start: int, legal: bool) -> None:
    def body() -> None:
        nisa.memset(dst=nl.ndarray((128, 2), dtype=nl.float32)[start : start + rows], value=0)

    if legal:
        in_kernel(body)
        return
    with pytest.raises(IllegalProgram, match="must start at a multiple of"):
        in_kernel(body)


def test_dma_may_start_at_any_partition() -> None:
    def body(x: object) -> np.ndarray:
        target = tile((128, 2))
        nisa.dma_copy(dst=target[17:19], src=x)
        return values(target)

    assert in_kernel(body, np.ones((2, 2), np.float32))[17:19].all()


def test_shapes_of_on_chip_tensors() -> None:
    for shape, fragment in (
        ((128,), "at least one free"),
        ((129, 2), "at most 128"),
        ((0, 2), "positive"),
    ):
        with pytest.raises(IllegalProgram, match=fragment):
            in_kernel(lambda shape=shape: nl.ndarray(shape, dtype=nl.float32))


def test_sbuf_capacity_counts_live_tensors() -> None:
    columns = 20000  # 80 kB per partition; trn2 has 212,984 bytes

    def released() -> None:
        for _ in range(6):
            one = nl.ndarray((128, columns), dtype=nl.float32)
        assert one.shape == (128, columns)

    def kept() -> None:
        held = []
        for i in range(6):
            held.append(nl.ndarray((128, columns), dtype=nl.float32, name=f"weights_{i}"))
        for one in held:
            nisa.memset(dst=one, value=0)

    in_kernel(released)
    with pytest.raises(IllegalProgram, match=r"212984 bytes per partition of SBUF.*weights_0"):
        in_kernel(kept)


def test_capacity_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    assert in_kernel(lambda: nl.tile_size.total_available_sbuf_size) == 245752
    assert (
        nisa.get_nc_version() == nisa.nc_version.gen4
        and nisa.get_nc_version() >= nisa.nc_version.gen3
    )
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn9")
    with pytest.raises(IllegalProgram, match="must be one of trn1"):
        nisa.get_nc_version()


def test_psum_has_eight_banks() -> None:
    def body() -> None:
        nl.ndarray((128, 9 * 512), dtype=nl.float32, buffer=nl.psum)

    with pytest.raises(IllegalProgram, match=r"8 banks of PSUM.*needs 9 alone"):
        in_kernel(body)


@pytest.mark.parametrize("used", [0, 1, 8, 9])
def test_what_is_never_used_needs_no_room(used: int) -> None:
    """A list of banks of a fixed length, of which a small problem uses the first few."""

    def body() -> None:
        held = [nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum) for _ in range(9)]
        for one in held[:used]:
            nisa.memset(dst=one, value=1)

    if used < 9:
        in_kernel(body)
    else:
        with pytest.raises(IllegalProgram, match=r"8 banks of PSUM.*of 9 that are held"):
            in_kernel(body)


@pytest.mark.parametrize("used_again", [0, 7, 8, 9])
def test_what_is_not_used_again_makes_room(used_again: int) -> None:
    """Nine written banks are held by name; a program that uses all of them again needs all."""

    def body() -> None:
        held = [tile((128, 512), buffer=nl.psum, value=i) for i in range(9)]
        total = tile((128, 512))
        for one in held[9 - used_again :]:
            nisa.tensor_tensor(dst=total, data1=total, data2=one, op=nl.add)

    if used_again < 9:
        in_kernel(body)
    else:
        with pytest.raises(IllegalProgram, match=r"8 banks of PSUM.*used afterwards"):
            in_kernel(body)


def test_room_is_counted_at_every_allocation() -> None:
    """The second of two waves of dead tiles does not fit beside what lives through both."""

    def body(kept: int) -> None:
        held = [tile((128, 512), buffer=nl.psum) for _ in range(kept)]
        dead = [tile((128, 512), buffer=nl.psum) for _ in range(20)]
        last = [nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum) for _ in range(4)]
        for one in held + last:
            nisa.memset(dst=one, value=1)
        assert dead

    in_kernel(body, 4)
    with pytest.raises(IllegalProgram, match="8 banks of PSUM"):
        in_kernel(body, 5)


def test_first_matmul_overwrites_and_later_ones_add() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 8, 3, 5)).astype(np.float32)[0], rng.standard_normal((8, 3, 4))

    def body(x: object, y: object) -> np.ndarray:
        total = nl.ndarray((5, 4), dtype=nl.float32, buffer=nl.psum)
        for k in range(8):
            nisa.nc_matmul(dst=total, stationary=loaded(x[k]), moving=loaded(y[k]))
        return values(total)

    got = in_kernel(body, a, b.astype(np.float32))
    np.testing.assert_allclose(got, np.einsum("kpm,kpn->mn", a, b), rtol=1e-5, atol=1e-5)


def ones_matmul(total: object, **options: object) -> None:
    ones = tile((4, 4), value=1)
    nisa.nc_matmul(dst=total, stationary=ones, moving=ones, **options)


def test_accumulate_false_overwrites() -> None:
    def body() -> np.ndarray:
        total = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        ones_matmul(total)
        ones_matmul(total, accumulate=False)
        return values(total)

    assert (in_kernel(body) == 4).all()


def test_accumulate_true_needs_a_written_tile() -> None:
    with pytest.raises(UninitialisedRead, match="accumulating"):
        in_kernel(lambda: ones_matmul(nl.ndarray((4, 4), nl.float32, nl.psum), accumulate=True))


def test_partly_written_destination_is_refused() -> None:
    def body() -> None:
        total = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.psum)
        ones_matmul(total[:, 0:4])
        ones_matmul(total[:, 4:8])
        ones_matmul(nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.psum)[:, 2:6])
        mixed = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.psum)
        ones_matmul(mixed[:, 0:4])
        ones_matmul(mixed[:, 2:6])

    with pytest.raises(IllegalProgram, match="8 of 16 elements"):
        in_kernel(body)


def test_adding_to_what_another_engine_wrote() -> None:
    def body(value: int) -> np.ndarray:
        total = tile((4, 4), buffer=nl.psum, value=value)
        ones_matmul(total)
        return values(total)

    with pytest.warns(UserWarning, match="set to zero"):
        assert (in_kernel(body, 0) == 4).all()
    with pytest.raises(IllegalProgram, match="another instruction wrote"):
        in_kernel(body, 1)


def test_foreign_writes_are_tracked_through_narrower_views() -> None:
    def body() -> None:
        total = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        ones_matmul(total)
        nisa.memset(dst=total.view(nl.uint16)[:, 2:4], value=1)
        ones_matmul(total)

    with pytest.raises(IllegalProgram, match="another instruction wrote"):
        in_kernel(body)


def test_matmul_destination_stays_in_a_bank() -> None:
    def body() -> None:
        wide = nl.ndarray((4, 1024), dtype=nl.float32, buffer=nl.psum)
        moving = tile((4, 512))
        nisa.nc_matmul(dst=wide[:, 512:1024], stationary=tile((4, 4)), moving=moving)
        nisa.nc_matmul(dst=wide[:, 256:768], stationary=tile((4, 4)), moving=moving)

    with pytest.raises(IllegalProgram, match="banks 0 to 1"):
        in_kernel(body)


def test_names_are_unique_in_a_kernel() -> None:
    def tensors() -> None:
        nl.ndarray((4, 4), dtype=nl.float32, name="same")
        nl.ndarray((4, 4), dtype=nl.float32, name="same")

    def instructions() -> None:
        for _ in range(2):
            nisa.memset(dst=nl.ndarray((4, 4), dtype=nl.float32), value=0.0, name="same")

    for body in (tensors, instructions):
        with pytest.raises(IllegalProgram, match="second time"):
            in_kernel(body)
