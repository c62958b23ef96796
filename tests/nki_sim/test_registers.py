"""Registers and the loops that run on the device."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nki_sim
from nki_sim.errors import IllegalProgram, SimulationError, UninitialisedRead
from nki_sim.schedule import shuffled

from .support import in_kernel, loaded, stored, tile, values

INTS = st.integers(-(2**31), 2**31 - 1)


def held(register: Any, dtype: str = "int32") -> Any:
    """What a register holds, read the legal way."""
    made = nl.ndarray((1, 1), dtype=dtype)
    nisa.register_store(made, register)
    return values(made)[0, 0]


def loaded_register(number: Any) -> Any:
    register = nisa.register_alloc()
    nisa.register_load(register, loaded(number))
    return register


def number(value: Any, dtype: Any = np.int32) -> np.ndarray:
    return np.array([[value]], dtype)


# -- registers -------------------------------------------------------------------------------------


@given(first=INTS, second=INTS)
def test_values_pass_through_registers(first: int, second: int) -> None:
    def body(x: Any) -> list[int]:
        one, other = nisa.register_alloc(first), loaded_register(x)
        third = nisa.register_alloc(loaded(x))
        found = [held(one), held(other), held(third)]
        nisa.register_move(one, other)
        nisa.register_move(other, imm=3)
        nisa.register_move(third, src=first)
        return [*found, held(one), held(other), held(third)]

    assert in_kernel(body, number(second)) == [first, second, second, second, 3, first]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_integers_are_widened_and_keep_their_low_bits(dtype: str) -> None:
    bounds = np.iinfo(dtype)
    for value in (bounds.min, bounds.max):
        got = in_kernel(lambda x: held(loaded_register(x), dtype), number(value, dtype))
        assert got == value
    got = in_kernel(lambda: held(nisa.register_alloc(0x1234FFFE), dtype))
    assert got == np.array([0x1234FFFE], np.uint32).view(dtype)[0]


def test_floats_and_hbm() -> None:
    def body(x: Any) -> Any:
        register = nisa.register_alloc(x[1, 2])
        out = nl.ndarray((1,), dtype=nl.float32, buffer=nl.shared_hbm)
        nisa.register_store(dst=out, src=register)
        return values(out)

    array = np.arange(12, dtype=np.float32).reshape(3, 4) + 0.5
    np.testing.assert_array_equal(in_kernel(body, array), [6.5])


def test_limits() -> None:
    t = np.zeros((2, 2), np.int32)
    wrong: list[tuple[Callable[[Any], Any], str]] = [
        (lambda x: nisa.register_alloc(1.5), "is an integer"),
        (lambda x: nisa.register_alloc(2**32), "holds 32 bits"),
        (lambda x: nisa.register_load(nisa.register_alloc(), x), "must agree"),
        (lambda x: nisa.register_load(3, x[0, 0]), "comes from nisa.register_alloc"),
        (lambda x: nisa.register_store(x[0, 0], 3), "comes from nisa.register_alloc"),
        (lambda x: held(nisa.register_alloc(1), "float32"), "kind of number"),
        (lambda x: nisa.register_move(3, 4), "dst is a register"),
        (lambda x: nisa.register_move(nisa.register_alloc()), "takes src"),
        (lambda x: nisa.register_load(nisa.register_alloc(), tile((1, 1), "bfloat16")), "type"),
    ]
    for body, pattern in wrong:
        with pytest.raises(IllegalProgram, match=pattern):
            in_kernel(body, t)
    for body in (
        lambda: held(nisa.register_alloc()),
        lambda: nisa.register_move(nisa.register_alloc(), nisa.register_alloc()),
        lambda: nisa.register_load(nisa.register_alloc(), nl.ndarray((1, 1), dtype=nl.int32)),
        lambda: list(nl.dynamic_range(nisa.register_alloc())),
    ):
        with pytest.raises(UninitialisedRead):
            in_kernel(body)


UNARY = (int, float, operator.index, range, len, iter, abs, operator.neg, bool, round)
BINARY = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.and_,
)  # fmt: skip


@pytest.mark.parametrize("function", UNARY)
def test_python_does_not_read_registers(function: Callable[[Any], Any]) -> None:
    with pytest.raises(IllegalProgram, match="known on the device only"):
        in_kernel(lambda: function(nisa.register_alloc(1)))


@pytest.mark.parametrize("function", BINARY)
def test_python_does_not_compute_with_registers(function: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(IllegalProgram, match="known on the device only"):
        in_kernel(lambda: function(nisa.register_alloc(1), 2))


def test_conditions_on_registers() -> None:
    def statement() -> None:
        if nisa.register_alloc(1):
            pass

    def expression() -> None:
        register = nisa.register_alloc(1)
        print(1 if register else 2)

    def negated() -> None:
        register = nisa.register_alloc(1)
        while not register:
            pass

    for body in (statement, expression, negated):
        with pytest.raises(IllegalProgram, match="a register used as a condition"):
            in_kernel(body)
    assert in_kernel(lambda: nisa.register_alloc(1) == None) is False  # noqa: E711


# -- offsets ---------------------------------------------------------------------------------------

CUBE = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def test_registers_offset_access_patterns() -> None:
    def body(cube: Any, position: Any) -> Any:
        target = nl.ndarray((4, 5), dtype=nl.float32)
        register = loaded_register(position)
        block = cube.ap([[5, 4], [1, 5]], 0, scalar_offset=register, indirect_dim=0)
        nisa.dma_copy(dst=target, src=block)
        return values(target)

    np.testing.assert_array_equal(in_kernel(body, CUBE, number(2)), CUBE[2])
    with pytest.raises(IllegalProgram, match="index 3"):
        in_kernel(body, CUBE, number(3))
    with pytest.raises(IllegalProgram, match="integer register"):
        in_kernel(body, CUBE, number(1.0, np.float32))
    with pytest.raises(IllegalProgram, match="int32 or uint32 tile"):
        in_kernel(lambda c: c.ap([[5, 4], [1, 5]], 0, vector_offset=nisa.register_alloc(1)), CUBE)


def test_the_register_is_read_when_the_dma_runs() -> None:
    def body(cube: Any) -> Any:
        register, target = nisa.register_alloc(0), nl.ndarray((4, 5), dtype=nl.float32)
        block = cube.ap([[5, 4], [1, 5]], 0, scalar_offset=register, indirect_dim=0)
        nisa.register_move(register, 1)
        nisa.dma_copy(dst=target, src=block)
        return values(target)

    np.testing.assert_array_equal(in_kernel(body, CUBE), CUBE[1])


# -- loops -----------------------------------------------------------------------------------------

BOUNDS = st.integers(0, 6)


def visited(kind: str, lower: Any, upper: Any, step: int) -> list[int]:
    """The values that a loop's induction variable takes."""
    found: list[int] = []
    if kind == "fori_loop":
        nl.fori_loop(lower, upper, lambda i: found.append(int(held(i))), step)
    else:
        for i in nl.dynamic_range(lower, upper, step):
            found.append(int(held(i)))
    return found


@pytest.mark.parametrize("kind", ["dynamic_range", "fori_loop"])
@given(lower=BOUNDS, upper=BOUNDS, step=st.integers(1, 4), registers=st.booleans())
def test_counted_loops(kind: str, lower: int, upper: int, step: int, registers: bool) -> None:
    def body() -> list[int]:
        make = nisa.register_alloc if registers else int
        return visited(kind, make(lower), make(upper), step)

    assert in_kernel(body) == list(range(lower, upper, step))


def test_one_bound_counts_from_zero() -> None:
    assert in_kernel(lambda: [int(held(i)) for i in nl.dynamic_range(3)]) == [0, 1, 2]


def test_a_loop_over_tiles() -> None:
    """As in the documentation: load, add, store, at the offset of the induction variable."""

    @nki.jit
    def kernel(x, count):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=x)
        for i in nl.dynamic_range(loaded_register(count)):
            data = nl.ndarray((4, 5), dtype=x.dtype, name="data")
            nisa.dma_copy(dst=data, src=x.ap([[5, 4], [1, 5]], scalar_offset=i, indirect_dim=0))
            nisa.tensor_scalar(dst=data, data=data, op0=nl.add, operand0=1.0, name="add")
            nisa.dma_copy(dst=out.ap([[5, 4], [1, 5]], scalar_offset=i, indirect_dim=0), src=data)
        return out

    for count in range(4):
        expected = CUBE.copy()
        expected[:count] += 1
        np.testing.assert_array_equal(kernel(CUBE, number(count)), expected)


def countdown(register: Any, data: Any) -> Any:
    """data += 1; the register's value minus one, through SBUF."""
    nisa.tensor_scalar(dst=data, data=data, op0=nl.add, operand0=1.0)
    counter = nl.ndarray((1, 1), dtype=nl.int32)
    nisa.register_store(counter, register)
    nisa.tensor_scalar(dst=counter, data=counter, op0=nl.subtract, operand0=1.0)
    following = nisa.register_alloc()
    nisa.register_load(following, counter)
    return following


def test_while_loop() -> None:
    def body(x: Any) -> Any:
        data = tile((1, 1))
        nl.while_loop(loaded_register(x), lambda register: countdown(register, data))
        return values(data)[0, 0]

    for count in range(4):
        assert in_kernel(body, number(count)) == count
    with pytest.raises(IllegalProgram, match="the condition is a register"):
        in_kernel(lambda: nl.while_loop(nisa.register_alloc(1), lambda register: None))
    with pytest.raises(IllegalProgram, match="the condition is a register"):
        in_kernel(lambda: nl.while_loop(1, lambda register: register))


def test_while_on_a_register() -> None:
    def body(x: Any) -> Any:
        data, register = tile((1, 1)), loaded_register(x)
        while register:
            nisa.register_move(register, countdown(register, data))
        return values(data)[0, 0]

    for count in range(4):
        assert in_kernel(body, number(count)) == count


def test_induction_variables() -> None:
    def frozen() -> None:
        for i in nl.dynamic_range(2):
            nisa.register_move(i, 5)

    def by_value() -> list[int]:
        found: list[int] = []

        def body(i: Any) -> None:
            found.append(int(held(i)))
            nisa.register_move(i, 100)

        nl.fori_loop(0, 3, body)
        return found

    with pytest.raises(IllegalProgram, match="induction variable is not written"):
        in_kernel(frozen)
    assert in_kernel(by_value) == [0, 1, 2]


def test_leaving_a_device_loop_early() -> None:
    def breaks() -> None:
        for _ in nl.dynamic_range(3):
            tile((1, 1))
            break

    def continues() -> None:
        for i in nl.dynamic_range(3):
            for _ in range(2):
                break
            if nl.program_id(0) == 0:
                continue
            print(i)

    def returns() -> None:
        for _ in nl.dynamic_range(3):
            with nl.no_reorder():
                return

    def by_hand() -> None:
        iterator = iter(nl.dynamic_range(3))
        next(iterator)

    for body in (breaks, continues, returns, by_hand):
        with pytest.raises(IllegalProgram, match="do not stand in a device loop"):
            in_kernel(body)

    def legal() -> None:
        for _ in nl.dynamic_range(3):
            for _ in range(2):
                break

    in_kernel(legal)


def test_loop_limits() -> None:
    def inside() -> None:
        with nl.no_reorder():
            nl.fori_loop(0, 2, lambda i: None)

    def around() -> None:
        for _ in nl.dynamic_range(2):
            with nl.no_reorder():
                pass

    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: nl.dynamic_range(0, 3, nisa.register_alloc(1)), "the step is a positive integer"),
        (lambda: nl.dynamic_range(0, 3, 0), "the step is a positive integer"),
        (lambda: nl.dynamic_range(2.0), "an integer or a register"),
        (lambda: nl.fori_loop(0, None, print), "an integer or a register"),
        (inside, r"does not stand inside nl\.no_reorder"),
    ]
    for body, pattern in wrong:
        with pytest.raises(IllegalProgram, match=pattern):
            in_kernel(body)
    in_kernel(around)


def test_names_are_unique_outside_of_iterations() -> None:
    def body(again: bool) -> None:
        nl.fori_loop(0, 3, lambda i: tile((1, 1)) and nl.ndarray((1, 1), nl.int32, name="inner"))
        if again:
            nl.ndarray((1, 1), dtype=nl.int32, name="inner")

    with pytest.raises(SimulationError):
        in_kernel(body, True)


def test_loops_on_two_cores() -> None:
    """Trip counts may differ; shared tensors made in the body exist once."""

    @nki.jit
    def kernel(counts):
        core, out = nl.program_id(0), nl.ndarray((2, 1), dtype=nl.int32, buffer=nl.shared_hbm)
        total = tile((1, 1), "int32")

        def body(i):
            scratch = nl.ndarray((2, 1), dtype=nl.int32, buffer=nl.shared_hbm)
            nisa.dma_copy(dst=scratch[core : core + 1], src=total)
            nisa.tensor_scalar(dst=total, data=total, op0=nl.add, operand0=1.0)

        register = nisa.register_alloc()
        nisa.register_load(register, counts[core, 0])
        nl.fori_loop(0, register, body)
        after = nl.ndarray((2, 1), dtype=nl.int32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=after[core : core + 1], src=total)
        nisa.dma_copy(dst=out[core : core + 1], src=total)
        return out, after

    counts = np.array([[3], [1]], np.int32)
    for seed in range(6):
        with shuffled(seed):
            for result in kernel[2](counts):
                np.testing.assert_array_equal(result, counts)


def test_register_traffic_is_accounted() -> None:
    @nki.jit
    def kernel(x):
        register = nisa.register_alloc()
        nisa.register_load(register, x[0, 0])
        nisa.register_store(tile((1, 1), "int32"), register)

    with nki_sim.record() as recording:
        kernel(number(1))
    (launch,) = recording.launches
    assert launch.summary()["instructions"] == {"sync": 2, "vector": 1}


@pytest.mark.parametrize(("passes", "said"), [(1, "once"), (3, "3 times")])
def test_shapes_only(passes: int, said: str) -> None:
    """Unknown bounds: every loop runs as often as the mode is told, and says so."""

    @nki.jit
    def kernel(x, count):
        data, register = loaded(x), loaded_register(count)
        while register:
            nisa.register_load(register, loaded(count))
        for i in nl.dynamic_range(register):
            nisa.register_store(tile((1, 1), "int32"), i)
        nl.fori_loop(0, register, lambda i: tile((1, 1)))
        nl.while_loop(register, lambda r: loaded_register(count))
        return stored(data)

    with nki_sim.mode("shapes", passes=passes), nki_sim.record() as recording:
        assert kernel(CUBE[0], number(5)).shape == (4, 5)
    (launch,) = recording.launches
    assert sum(f"runs {said}" in text for text in launch.assumed) == 4
    assert launch.summary()["instructions"]["sync"] == 1 + 3 * passes


def test_a_loop_of_no_passes() -> None:
    with pytest.raises(IllegalProgram, match="passes"), nki_sim.mode("shapes", passes=0):
        pass
