"""The tensor-returning functions of nki.language against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nki_sim
from nki_sim.errors import IllegalProgram, NotModelled, SimulationError, UninitialisedRead

from .support import in_kernel, loaded, tile, values

RNG = np.random.default_rng(7)
X = RNG.uniform(-2, 2, (5, 12)).astype(np.float32)
Y = RNG.uniform(0.5, 3, (5, 12)).astype(np.float32)
COLUMN = RNG.uniform(0.5, 3, (5, 1)).astype(np.float32)


def run(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """`function` of tiles with these contents."""
    return in_kernel(lambda *t: values(function(*(loaded(one) for one in t))), *arrays)


# -- elementwise -----------------------------------------------------------------------------------

BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "fmod": np.fmod,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


@pytest.mark.parametrize("name", BINARY)
def test_two_operands(name: str) -> None:
    """Tile and tile, number on either side, column on either side."""
    op, reference = getattr(nl, name), BINARY[name]
    x = np.where(np.arange(12) % 3, X, Y)  # some equal elements
    close = {"rtol": 3e-6, "atol": 3e-6}
    cases = [
        (lambda a, b, c: op(a, b), (x, Y)),
        (lambda a, b, c: op(x=a, y=1.5), (x, 1.5)),
        (lambda a, b, c: op(1.5, b), (1.5, Y)),
        (lambda a, b, c: op(a, c), (x, COLUMN)),
        (lambda a, b, c: op(c, b), (COLUMN, Y)),
    ]
    for function, operands in cases:
        wanted = reference(*operands).astype(np.float32)
        np.testing.assert_allclose(run(function, x, Y, COLUMN), wanted, **close)


def test_power_needs_a_positive_base() -> None:
    np.testing.assert_allclose(run(nl.power, Y, X), Y**X, rtol=1e-5)
    np.testing.assert_allclose(run(lambda y: nl.power(y, 2), Y), Y**2, rtol=1e-6)


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor", "left_shift"])
def test_bits(name: str) -> None:
    a, b = RNG.integers(0, 100, (2, 4, 6)).astype(np.int32)
    b %= 8
    op = getattr(nl, name)
    np.testing.assert_array_equal(run(op, a, b), getattr(np, name)(a, b))
    np.testing.assert_array_equal(run(lambda t: op(t, 3), a), getattr(np, name)(a, 3))
    np.testing.assert_array_equal(run(nl.invert, a), ~a)


@pytest.mark.parametrize("shape", [(5, 12), (4, 3, 2)])
@pytest.mark.parametrize("platform", ["trn2", "trn3"])
def test_magnitudes_from_trn3_on(
    shape: tuple[int, ...], platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", platform)
    a, b = RNG.standard_normal((2, *shape)).astype(np.float32)
    if platform == "trn2":
        with pytest.raises(IllegalProgram, match="exists from trn3 on"):
            run(nl.abs_max, a, b)
    else:
        assert (np.abs(run(nl.abs_max, a, b)) == np.maximum(np.abs(a), np.abs(b))).all()
        assert (np.abs(run(nl.abs_min, a, b)) == np.minimum(np.abs(a), np.abs(b))).all()


UNARY = {
    "abs": np.abs,
    "arctan": np.arctan,
    "ceil": np.ceil,
    "copy": np.array,
    "cos": np.cos,
    "exp": np.exp,
    "floor": np.floor,
    "log": lambda x: np.log(np.abs(x)),
    "negative": np.negative,
    "reciprocal": np.reciprocal,
    "relu": lambda x: np.maximum(x, 0),
    "rsqrt": lambda x: 1 / np.sqrt(np.abs(x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": np.sign,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sin": np.sin,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_one_operand(name: str, dtype: Any) -> None:
    positive = name in ("log", "rsqrt", "sqrt")
    x = (np.abs(X) + 0.5 if positive else X).astype(dtype)
    got = run(getattr(nl, name), x)
    wanted = UNARY[name](x.astype(np.float32))
    assert got.dtype == dtype
    tolerance = 2e-5 if dtype is np.float32 else 8e-3
    np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=tolerance, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_rounding_functions_are_exact(numbers: list[float]) -> None:
    x = np.array([numbers], np.float32)
    for name in ("floor", "ceil", "trunc"):
        np.testing.assert_array_equal(run(getattr(nl, name), x), getattr(np, name)(x))


def test_turning_angles_far_out() -> None:
    x = np.linspace(-60, 60, 64, dtype=np.float32)[None]
    np.testing.assert_allclose(run(nl.cos, x), np.cos(x), atol=2e-5)


def test_logical_not_and_where() -> None:
    flags = (X > 0).astype(np.float32)
    np.testing.assert_array_equal(run(nl.logical_not, flags), 1 - flags)
    np.testing.assert_array_equal(run(nl.where, flags, X, Y), np.where(X > 0, X, Y))
    got = run(lambda f, x: nl.where(f, x, -1.0, dtype=nl.bfloat16), flags, X)
    np.testing.assert_array_equal(got, np.where(X > 0, X, -1).astype(ml_dtypes.bfloat16))
    got = run(lambda f: nl.where(condition=f, x=2, y=3), flags)
    np.testing.assert_array_equal(got, np.where(X > 0, 2, 3))


def test_result_types() -> None:
    """The tiles' type, the one of higher precision, or the one asked for."""

    def body() -> list[str]:
        def of(dtype: str) -> Any:
            return tile((4, 4), dtype, value=1)

        half, wide, whole = of("bfloat16"), of("float32"), of("int32")
        return [
            nl.add(half, half).dtype,
            nl.add(half, 1.5).dtype,
            nl.add(half, wide).dtype,
            nl.add(half, of("float16")).dtype,
            nl.add(half, of("float8_e4m3")).dtype,
            nl.add(whole, half).dtype,
            nl.add(whole, of("int8")).dtype,
            nl.add(whole, of("uint32")).dtype,
            nl.add(of("bool"), of("int8")).dtype,
            nl.greater(wide, half).dtype,
            nl.greater(wide, half, dtype=nl.uint8).dtype,
            nl.greater(wide, half, dtype=bool).dtype,
            nl.exp(whole, dtype=nl.float32).dtype,
        ]

    wanted = "bfloat16 bfloat16 float32 float32 bfloat16 bfloat16 int32 int32 int8 float32 uint8"
    assert in_kernel(body) == [*wanted.split(), "bool", "float32"]


def test_results_are_new_tiles_in_sbuf() -> None:
    def body() -> None:
        a = tile((4, 6), buffer=nl.psum, value=2)
        b = nl.multiply(a, a)
        nisa.memset(dst=a, value=0)
        assert b.buffer is nl.sbuf and (values(b) == 4).all() and b.shape == (4, 6)

    in_kernel(body)


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda a: nl.add(a, a[:, 0:3]), "one shape, or one is a column"),
        (lambda a: nl.add(a, a[0:1]), "one shape, or one is a column"),
        (lambda a: nl.add(1, 2), "at least one operand is a tile"),
        (lambda a: nl.add(a, None), "is a tile"),
        (lambda a: nl.add(a), r"parameters are x, y, dtype"),
        (lambda a: nl.add(a, a, a, a), r"parameters are x, y, dtype"),
        (lambda a: nl.add(a, a, mask=None), r"parameters are x, y, dtype"),
        (lambda a: nl.exp(a, x=a), r"parameters are x, dtype"),
        (lambda a: nl.exp(3.0), "is a tile"),
        (lambda a: nl.exp(a, dtype="float99"), "dtype must be one of"),
        (lambda a: nl.bypass(a), "is an operator"),
        (lambda a: nl.invert(a), "integer tensors"),
        (lambda a: nl.where(a, a, a[0:2]), "condition's shape"),
        (lambda a: nl.exp(nl.ndarray((4, 4), nl.float32, buffer=nl.shared_hbm)), "load it first"),
    ],
)
def test_illegal_calls(call: Any, fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        in_kernel(lambda: call(tile((4, 6))))


def test_uninitialised_tiles_are_refused() -> None:
    for call in (nl.exp, nl.softmax, lambda t: nl.add(t, 1.0), lambda t: nl.sum(t, axis=1)):
        with pytest.raises(UninitialisedRead):
            in_kernel(lambda call=call: call(nl.ndarray((4, 6), dtype=nl.float32)))


def test_functions_are_accounted() -> None:
    with nki_sim.record() as recording:
        run(lambda x: nl.softmax(nl.add(x, 1.0)), X)
    opcodes = [event.opcode for event in recording.launches[0].instructions]
    assert opcodes[:3] == ["dma_copy", "tensor_scalar", "tensor_reduce"]
    assert opcodes.count("activation") == 1 and "reciprocal" in opcodes


# -- reductions ------------------------------------------------------------------------------------

Z = RNG.uniform(-2, 2, (4, 3, 5, 2)).astype(np.float32)
REDUCTIONS = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod, "mean": np.mean}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axis", [3, -1, (2, 3), [1, 2, 3], (-2, -1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name: str, axis: Any, keepdims: bool) -> None:
    got = run(lambda z: getattr(nl, name)(z, axis, keepdims=keepdims), Z)
    axes = axis if isinstance(axis, int) else tuple(axis)
    wanted = REDUCTIONS[name](Z, axis=axes, keepdims=keepdims)
    wanted = wanted.reshape(4, 1) if wanted.ndim == 1 else wanted
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("axis", [1, (1, 2, 3), 3, (2, 3)])
def test_variance_keeps_its_dimensions(axis: Any) -> None:
    z = Z if axis != 1 else X
    wanted = np.var(z, axis=axis, keepdims=True)
    np.testing.assert_allclose(run(lambda t: nl.var(t, axis), z), wanted, rtol=1e-5)


def test_all_of_a_row() -> None:
    flags = np.array([[1, 2, 3], [1, 0, 3]], np.float32)
    np.testing.assert_array_equal(run(lambda t: nl.all(t, axis=1), flags), [[1], [0]])


@pytest.mark.parametrize("axis", [-1, (2, 3), 3])
def test_softmax(axis: Any) -> None:
    shifted = np.exp(Z - Z.max(axis=axis, keepdims=True))
    wanted = shifted / shifted.sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(run(lambda z: nl.softmax(z, axis=axis), Z), wanted, rtol=2e-6)


def test_rms_norm() -> None:
    wanted = X / np.sqrt((X**2).sum(1, keepdims=True) / 12 + 1e-3) * Y
    got = run(lambda x, w: nl.rms_norm(x, w, axis=1, n=12, epsilon=1e-3), X, Y)
    np.testing.assert_allclose(got, wanted, rtol=3e-6)
    got = run(lambda x, w: nl.rms_norm(x, w, 1, 12, 1e-3, nl.bfloat16, nl.bfloat16), X, Y)
    assert got.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=5e-2)


def test_sums_over_five_dimensional_patterns() -> None:
    """What the vendor's pooling tutorial writes: a sliding window, then a sum over its inside."""
    image = np.arange(4 * 36, dtype=np.float32).reshape(4, 36)

    def pool(t: Any) -> Any:
        window = t.ap([[36, 4], [12, 3], [2, 3], [6, 2], [1, 2]], offset=0)
        return nl.sum(window, axis=[3, 4])

    wanted = image.reshape(4, 3, 2, 3, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(run(pool, image), wanted)


@pytest.mark.parametrize("axis", [0, (1,), (0, 1), 4, (1, 3), "1", None, ()])
def test_axes_are_the_last_free_ones(axis: Any) -> None:
    with pytest.raises(IllegalProgram, match="last free dimensions"):
        run(lambda z: nl.sum(z, axis), Z)


# -- movement --------------------------------------------------------------------------------------


def test_load_store_and_cast() -> None:
    @nki.jit
    def kernel(x: Any) -> Any:
        out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, value=nl.load(x, dtype=nl.bfloat16))
        return out

    np.testing.assert_array_equal(kernel(X), X.astype(ml_dtypes.bfloat16).astype(np.float32))
    with pytest.raises(IllegalProgram, match="src is a tensor in HBM"):
        in_kernel(lambda: nl.load(tile((4, 4))))
    with pytest.raises(IllegalProgram, match="dst is a tensor in HBM"):
        in_kernel(lambda: nl.store(tile((4, 4)), tile((4, 4))))


def test_transposes() -> None:
    np.testing.assert_array_equal(run(nl.transpose, X), X.T)
    np.testing.assert_array_equal(run(lambda x: nl.transpose(x, dtype=nl.int32), X), np.rint(X.T))
    got = in_kernel(lambda x: values(nl.load_transpose2d(x)), X)
    np.testing.assert_array_equal(got, X.T)
    assert in_kernel(lambda: nl.transpose(tile((4, 6))).buffer) is nl.psum


@pytest.mark.parametrize("transposed", [False, True])
def test_matmul(transposed: bool) -> None:
    a, b = RNG.standard_normal((16, 8)), RNG.standard_normal((8, 20))
    a, b = a.astype(np.float32), b.astype(np.float32)
    got = run(lambda x, y: nl.matmul(x, y, transpose_x=transposed), a.T if transposed else a, b)
    np.testing.assert_allclose(got, a @ b, rtol=1e-5, atol=1e-5)


def test_gathering_broadcasting_expanding() -> None:
    places = RNG.integers(0, 12, (5, 2, 3)).astype(np.uint32)
    wanted = np.take_along_axis(X, places.reshape(5, 6), 1).reshape(5, 2, 3)
    np.testing.assert_array_equal(run(nl.gather_flattened, X, places), wanted)
    got = run(lambda x: nl.broadcast_to(x, (5, 7)), COLUMN)
    np.testing.assert_array_equal(got, np.broadcast_to(COLUMN, (5, 7)))
    for rows in (3, 32, 70, 128):
        got = run(lambda x, n=rows: nl.broadcast_to(x, (n, 12)), X[:1])
        np.testing.assert_array_equal(got, np.broadcast_to(X[:1], (rows, 12)))
    assert in_kernel(lambda: nl.broadcast_to(tile((1, 1)), (4, 6), nl.bfloat16)).shape == (4, 6)

    def shapes() -> list[tuple[int, ...]]:
        t = tile((4, 6))
        same = nl.broadcast_to(t, (4, 6))
        assert same is t
        return [
            nl.expand_dims(t, 1).shape,
            nl.expand_dims(t, -1).shape,
            nl.expand_dims(t, (1, 3)).shape,
        ]

    assert in_kernel(shapes) == [(4, 1, 6), (4, 6, 1), (4, 1, 6, 1)]
    for call in (
        lambda t: nl.broadcast_to(t, (4, 12)),
        lambda t: nl.broadcast_to(t, (4, 1, 6)),
        lambda t: nl.broadcast_to(t, 4),
        lambda t: nl.expand_dims(t, 5),
        lambda t: nl.expand_dims(t, 0),
    ):
        with pytest.raises(IllegalProgram):
            in_kernel(lambda call=call: call(tile((4, 6))))
    with pytest.raises(NotModelled, match="axes other than 0"):
        run(lambda x, i: nl.gather_flattened(x, i, axis=1), X, places)


# -- allocation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", ["sbuf", "psum", "private_hbm", "shared_hbm"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16", "bool"])
def test_filled_tensors(buffer: str, dtype: str) -> None:
    region = getattr(nl, buffer)

    def body() -> list[np.ndarray]:
        made = [
            nl.zeros((4, 6), dtype=dtype, buffer=region),
            nl.ones((4, 6), dtype, region),
            nl.full((4, 6), 1, dtype, buffer=region, name="third"),
        ]
        assert all(t.buffer is region and t.dtype == dtype for t in made)
        assert made[2].name == "third"
        return [values(t) for t in made]

    zeros, ones, ones_too = in_kernel(body)
    assert not zeros.any() and (ones == 1).all() and (ones_too == 1).all()


def test_tensors_like_others() -> None:
    def body() -> None:
        like = nl.ndarray((4, 6), dtype=nl.bfloat16, buffer=nl.psum)
        empty, zero = nl.empty_like(like), nl.zeros_like(like, dtype=nl.int8, name="z")
        assert (empty.shape, empty.dtype, empty.buffer) == ((4, 6), "bfloat16", nl.psum)
        assert (zero.shape, zero.dtype, zero.buffer) == ((4, 6), "int8", nl.sbuf)
        assert not values(zero).any() and not empty.written_map().any()
        with pytest.raises(IllegalProgram, match="x is a tensor"):
            nl.zeros_like(3)

    in_kernel(body)


def test_shared_constants(tmp_path: Any) -> None:
    path = tmp_path / "table.npy"
    np.save(path, X)
    np.save(tmp_path / "wide.npy", X.astype(np.float64))

    def body(source: Any) -> np.ndarray:
        constant = nl.shared_constant(source)
        assert constant.buffer is nl.shared_hbm
        return values(nl.load(constant))

    for source in (X, str(path), path):
        results = []
        nki.jit(lambda s=source, r=results: r.append(body(s)))()
        np.testing.assert_array_equal(results[0], X)
    got = in_kernel(lambda: values(nl.shared_constant(X, dtype=nl.float16)))
    np.testing.assert_array_equal(got, X.astype(np.float16))

    def write() -> None:
        nisa.dma_copy(dst=nl.shared_constant(X), src=tile((5, 12)))

    def write_one_row() -> None:
        row = nl.shared_constant(X).select(0, tile((1, 1), "int32"))
        nisa.dma_copy(dst=row, src=tile((1, 12)))

    for one in (write, write_one_row):
        with pytest.raises(IllegalProgram, match="never written"):
            in_kernel(one)
    for wrong, fragment in (
        ("nowhere.npy", "readable .npy"),
        (str(tmp_path / "wide.npy"), "no data type float64"),
        (3, "NumPy array or"),
        (np.float32(3), "NumPy array or"),
        (np.zeros((0, 3), np.float32), "has a dimension"),
    ):
        with pytest.raises(IllegalProgram, match=fragment):
            in_kernel(lambda w=wrong: nl.shared_constant(w))


def test_constants_made_while_tracing() -> None:
    import nki.tensor as ntensor

    def body() -> list[np.ndarray]:
        made = [
            ntensor.identity(4, dtype=nl.int8),
            ntensor.arange(0, 6, 2, dtype=nl.int32) + 1,
            ntensor.zeros((2, 3), dtype=nl.int8) + 1,
            2 - ntensor.ones((2, 2), dtype=nl.float32) * 3,
            -ntensor.arange(3),
        ]
        return [values(nl.shared_constant(one, dtype=nl.float32)) for one in made]

    wanted = [np.eye(4), [1, 3, 5], np.ones((2, 3)), -np.ones((2, 2)), [0, -1, -2]]
    for got, want in zip(in_kernel(body), wanted, strict=True):
        np.testing.assert_array_equal(got, np.asarray(want, np.float32))


@pytest.mark.parametrize("dtype", [nl.uint8, nl.bfloat16, nl.float32, nl.int32])
def test_identity_matrices(dtype: str) -> None:
    def body() -> list[np.ndarray]:
        given_tile = nl.ndarray((7, 7), dtype=dtype)
        return [
            values(nl.shared_identity_matrix(7, dtype=dtype)),
            values(nl.shared_identity_matrix(n=7, dtype=dtype, dst=given_tile)),
        ]

    for got in in_kernel(body):
        np.testing.assert_array_equal(got, np.eye(7))


def test_random_numbers_follow_their_seed() -> None:
    def body(seed: int) -> tuple[np.ndarray, np.ndarray]:
        nl.random_seed(nl.full((1, 1), seed, dtype=nl.int32))
        return values(nl.rand((64, 32), dtype=nl.float32)), values(nl.rand((64, 32), nl.bfloat16))

    first, narrow = in_kernel(body, 42)
    assert (first == in_kernel(body, 42)[0]).all() and (first != in_kernel(body, 43)[0]).any()
    assert first.min() >= 0 and first.max() < 1 and abs(first.mean() - 0.5) < 0.03
    assert narrow.dtype == ml_dtypes.bfloat16 and len(np.unique(first)) > 2000


def test_dropout() -> None:
    def body(rate: float) -> np.ndarray:
        nl.random_seed(nl.full((1, 1), 1, dtype=nl.int32))
        return values(nl.dropout(tile((64, 64), value=1), rate))

    assert (in_kernel(body, 0.0) == 1).all()
    kept = in_kernel(body, 0.25)
    assert set(np.unique(kept)) == {0, 1} and abs(kept.mean() - 0.75) < 0.05


FUNCTIONS = sorted(
    name
    for name in dir(nl)
    if callable(getattr(nl, name)) and not name.startswith("_") and name[0].islower()
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(FUNCTIONS),
    st.lists(
        st.sampled_from([None, 0, 1, 2.5, "float32", "x", (4, 6), [1], (1, 2), "tile", "hbm"]),
        max_size=4,
    ),
)
def test_nonsense_ends_in_the_simulators_own_errors(name: str, kinds: list[Any]) -> None:
    def body() -> None:
        made = {"tile": tile((4, 6)), "hbm": nl.zeros((4, 6), nl.float32, nl.shared_hbm)}
        arguments = [made.get(k, k) if isinstance(k, str) else k for k in kinds]
        try:
            getattr(nl, name)(*arguments)
        except SimulationError:
            pass
        except TypeError as error:
            assert "argument" in str(error), (name, arguments, error)

    in_kernel(body)
