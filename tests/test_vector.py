"""The vector type of the CPU kernels: every function against NumPy, in every type of number that it is used with."""

from __future__ import annotations

import ast
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba.core.errors import TypingError
from numba.cpython.unsafe.tuple import tuple_setitem

from fastwarp.kernels.cpu import _vector as v
from fastwarp.kernels.cpu._parallel import jit

LANES = 8
REALS = (np.float32, np.float64)
INTEGERS = (np.int32, np.int64)
STORED = {np.uint8: torch.uint8, np.uint16: torch.float16, np.int16: torch.bfloat16, np.float32: torch.float32}
STORED |= {np.float64: torch.float64}


def numbers(dtype, count=2 * LANES, seed=0):
    values = np.random.default_rng(seed).standard_normal(count) * 100
    return values.astype(dtype)


@jit
def arithmetic(a, b, factor, out):
    x, y = v.load(a, 0, 8), v.load(b, 0, 8)
    v.store(x + y, out, 0)
    v.store(x - y, out, 8)
    v.store(x * y, out, 16)
    v.store(-x, out, 24)
    v.store(factor * x, out, 32)
    v.store(x + 3, out, 40)
    x += y
    x -= factor
    x *= y
    v.store(x, out, 48)


@pytest.mark.parametrize("dtype", REALS + INTEGERS)
def test_arithmetic_is_that_of_numpy(dtype):
    a, b, factor = numbers(dtype, LANES), numbers(dtype, LANES, 1), dtype(7)
    out = np.zeros(7 * LANES, dtype)
    arithmetic(a, b, factor, out)
    wide = (x.astype(np.float64 if dtype in REALS else np.int64) for x in (a, b))
    (x, y) = wide
    expected = [a + b, a - b, a * b, -a, factor * a, a + dtype(3), ((x + y - factor) * y).astype(dtype)]
    tolerance = 0 if dtype in INTEGERS else 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(out, np.concatenate(expected), rtol=tolerance, atol=tolerance * 1e3)


@jit
def divide(a, b, out):
    x = v.load(a, 0, 8)
    v.store(x / v.load(b, 0, 8), out, 0)
    v.store(1 / x, out, 8)
    v.store(v.sqrt(x * x), out, 16)


@pytest.mark.parametrize("dtype", REALS)
def test_division_and_square_root_are_those_of_numpy(dtype):
    a, b, out = numbers(dtype, LANES), numbers(dtype, LANES, 1), np.zeros(3 * LANES, dtype)
    divide(a, b, out)
    np.testing.assert_array_equal(out, np.concatenate([a / b, 1 / a, np.sqrt(a * a)]).astype(dtype))


@jit
def compare(a, b, out):
    x, y, one, zero = v.load(a, 0, 8), v.load(b, 0, 8), a.dtype.type(1), a.dtype.type(0)
    masks = (x < y, x <= y, x > y, x >= y, x == y, x != y, (x < y) & (y > 0), (x < 0) | (y < 0), ~(x < y))
    for i in range(len(masks)):
        v.store(v.select(masks[i], v.full(one, 8), v.full(zero, 8)), out, 8 * i)
    v.store(v.select(x > 0, x, 0), out, 72)
    v.store(v.full_like(a[0] if a[0] > b[0] else b[0], x), out, 80)


@pytest.mark.parametrize("dtype", REALS + INTEGERS)
def test_comparisons_and_selections_are_those_of_numpy(dtype):
    a, b, out = numbers(dtype, LANES), numbers(dtype, LANES, 1), np.zeros(11 * LANES, dtype)
    b[1] = a[1]
    if dtype in REALS:
        a[2] = np.nan
    compare(a, b, out)
    masks = [a < b, a <= b, a > b, a >= b, a == b, a != b, (a < b) & (b > 0), (a < 0) | (b < 0), ~(a < b)]
    expected = [*(m.astype(dtype) for m in masks), np.where(a > 0, a, 0), np.full(LANES, max(a[0], b[0]))]
    np.testing.assert_array_equal(out, np.concatenate(expected))


@jit
def bits(a, out):
    x = v.load(a, 0, 8)
    v.store((x & 12) | 1, out, 0)
    v.store(x << 3, out, 8)
    v.store(~x, out, 16)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bits_are_those_of_numpy(dtype):
    a, out = numbers(dtype, LANES), np.zeros(3 * LANES, dtype)
    bits(a, out)
    np.testing.assert_array_equal(out, np.concatenate([a & 12 | 1, a << 3, ~a]))


@jit
def bits_of_masks(a, out):
    for lanes in range(len(out)):
        out[lanes] = v.mask_bits(v.load(a, 0, 16) > a.dtype.type(lanes))


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_bits_of_masks_are_in_the_order_of_the_lanes(dtype):
    a, out = np.array([5, 0, 9, 1, 3, 3, 8, 2, 7, 0, 4, 6, 1, 9, 0, 8], dtype), np.zeros(10, np.int64)
    bits_of_masks(a, out)
    assert out.tolist() == [sum(1 << i for i in range(16) if a[i] > limit) for limit in range(10)]


@jit
def move(source, out, stored, like, at):
    """Loads at any place, as vectors and as numbers, and stores what was loaded."""
    zeros = v.full(like, 8)
    v.store(v.load_as(source, at, zeros), out, 0)
    v.store(v.load_as(source, at, like), out, 8)
    v.store(v.widen(v.load(source, at, 4), like), out, 9)
    v.store(v.load_as(out, 0, zeros), stored, at)
    v.store(v.load_as(out, 8, like), stored, at + 8)
    v.store(v.load(source, at, 2), stored, at + 9)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("storage", STORED)
def test_storage_types_are_widened_exactly(storage, real):
    dtype = STORED[storage]
    values = torch.from_numpy(numbers(np.float64).clip(0 if storage == np.uint8 else -np.inf)).to(dtype)
    source = _bits(values, storage)
    out, stored = np.zeros(13, real), np.zeros(len(source), storage)
    move(source, out, stored, real(0), 3)
    wide = values.double().numpy()
    if real == np.float32:
        wide = wide.astype(real)
    np.testing.assert_array_equal(out, np.concatenate([wide[3:11], wide[3:4], wide[3:7]]))
    expected = np.zeros_like(source)
    narrow = source if storage != np.float64 else wide.astype(real).astype(storage)
    expected[3:11], expected[11], expected[12:14] = narrow[3:11], narrow[3], source[3:5]
    np.testing.assert_array_equal(stored, expected)


def _bits(values, storage):
    return (
        values.view({torch.bfloat16: torch.int16, torch.float16: torch.int16}.get(values.dtype, values.dtype))
        .numpy()
        .view(storage)
    )


@jit
def narrow(values, out):
    for i in range(0, len(values), 8):
        v.store(v.load(values, i, 8), out, i)
        for k in range(8):
            v.store(v.load(values, i + k, 1), out, len(values) + i + k)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("storage", STORED)
def test_storage_types_are_rounded_half_to_even(storage, real):
    values = np.concatenate(
        [
            numbers(real),
            [
                0.5,
                1.5,
                2.5,
                254.5,
                1e-7,
                6e-8,
                -2.5,
                300,
                1.00390625,
                1.01171875,
                65519,
                70000,
                -0.0,
                3e38,
                np.inf,
                np.nan,
            ],
        ]
    ).astype(real)
    out = np.zeros(2 * len(values), storage)
    narrow(values, out)
    expected = torch.from_numpy(values).float() if storage != np.float64 else torch.from_numpy(values)
    if storage == np.uint8:
        expected = expected.nan_to_num(0).round().clamp(0, 255)
    found = torch.from_numpy(out.view(np.int16) if storage in (np.uint16, np.int16) else out).view(STORED[storage])
    torch.testing.assert_close(found, expected.to(STORED[storage]).repeat(2), rtol=0, atol=0, equal_nan=True)


@jit
def by_address(address, like, out):
    source = v.pointer(address, like)
    v.prefetch(source, 1 << 40)
    v.prefetch_to_write(out, -1)
    v.store(v.load(source, 1, 4), out, 0)
    v.store(v.gather(source, 1, v.load(np.array([4, 0, 2, 2]), 0, 4)), out, 4)
    v.store(v.gather(out, 0, v.load(np.array([3, -0, 1, 2], np.int32), 0, 4)), out, 8)


@pytest.mark.parametrize("dtype", [*REALS, *INTEGERS, np.uint8])
def test_memory_is_an_array_or_an_address(dtype):
    source, out = np.arange(10, dtype=dtype), np.zeros(12, dtype)
    by_address(source.ctypes.data, source[:0], out)
    np.testing.assert_array_equal(out, [1, 2, 3, 4, 5, 1, 3, 3, 4, 1, 2, 3])


@jit
def converted(x, a, like, out):
    v.store(v.convert(x, like), out, 0)
    v.store(v.convert(a[0], v.full(like, 2)), out, 8)
    v.store(v.lane_numbers(v.convert(x, like)), out, 9)


@jit
def converted_to_all(a, f32, f64, i32, i64):
    x = v.load(a, 0, 8)
    converted(x, a, f32[0], f32)
    converted(x, a, f64[0], f64)
    converted(x, a, i32[0], i32)
    converted(x, a, i64[0], i64)


@pytest.mark.parametrize("source", REALS + INTEGERS)
def test_conversions_are_those_of_astype(source):
    a, outs = numbers(source, LANES), [np.zeros(17, target) for target in REALS + INTEGERS]
    converted_to_all(a, *outs)
    for out in outs:
        np.testing.assert_array_equal(out, np.concatenate([a, a[:1], np.arange(8)]).astype(out.dtype))


every_other = v.shuffle(0, 2, 4, 6, 8, 10, 12, 14)
first_twice = v.shuffle(0, 0)


@jit
def arranged(a, index, out):
    x, y, where = v.load(a, 0, 8), v.load(a, 8, 8), v.load(index, 0, 8)
    v.store(every_other(x, y), out, 0)
    v.store(v.pick(x, y, where), out, 8)
    v.store(v.join(first_twice(y, x), v.pack((a[1], a[5]))), out, 16)
    v.store(v.lane(x, 3), out, 20)
    for i in range(8):
        v.store(v.lane(y, i), out, 21 + i)
    rows = (x, y, x, y, x, y, x, y)
    for i in range(8):
        rows = tuple_setitem(rows, i, rows[i] + a.dtype.type(i))
    rows = v.transpose(rows)
    for i in range(8):
        v.store(rows[i], out, 32 + 8 * i)


@pytest.mark.parametrize("dtype", REALS + INTEGERS)
def test_lanes_are_arranged_as_numpy_would(dtype):
    a, out = numbers(dtype), np.zeros(96, dtype)
    index = np.array([0, 15, 7, 8, 8, 3, 12, 1], np.int32)
    arranged(a, index, out)
    x, y = a[:8], a[8:]
    np.testing.assert_array_equal(out[:29], np.concatenate([a[::2], a[index], [y[0], y[0], a[1], a[5], x[3]], y]))
    rows = np.stack([x, y] * 4) + np.arange(8, dtype=dtype)[:, None]
    np.testing.assert_array_equal(out[32:].reshape(8, 8), rows.T)


@jit
def sums(a, out):
    v.store(v.total(v.load(a, 0, 8)), out, 0)
    v.store(v.total(v.load(a, 0, 16)), out, 1)


@pytest.mark.parametrize("dtype", REALS)
def test_lanes_are_summed_by_halves(dtype):
    a, out = numbers(dtype), np.zeros(2, dtype)
    sums(a, out)
    halves = [a[:8], a[:8] + a[8:]]
    halves = [h[:4] + h[4:] for h in halves]
    halves = [(h[0] + h[2]) + (h[1] + h[3]) for h in halves]
    np.testing.assert_array_equal(out, halves)


def test_what_would_be_wrong_is_an_error():
    a, b, half = np.zeros((8, 2), np.float32), np.zeros(8), np.zeros(8, np.uint16)
    for wrong in (
        lambda a, b, half: v.store(1, half, 0),  # is that the bits, or 1.0?
        lambda a, b, half: v.load(a[:, 0], 0, 2),  # not contiguous
        lambda a, b, half: v.load(a, 0, 8) + v.load(b, 0, 8),
        lambda a, b, half: v.load(a, 0, 4) + v.load(a, 0, 8),
        lambda a, b, half: v.load(a, 0, 8) & v.load(a, 0, 8),
        lambda a, b, half: v.load(a, 0, len(b)),
        lambda a, b, half: v.transpose((v.load(a, 0, 8), v.load(a, 0, 8))),
    ):
        with pytest.raises(TypingError):
            numba.njit(wrong)(a, b, half)


@jit
def lines(a, out, powers):
    source = v.elements(a)
    zero = v.full_line(a.dtype.type(0))
    v.store(v.load_as(source, 1, zero) + 1.0, out, 0)
    v.store(v.power_of_two(v.load_as(source, 0, v.full(a.dtype.type(0), 8))), powers, 0)
    rows = v.copies(v.load(source, 0, 4))
    for i, row in enumerate(v.transpose(rows)):
        v.store(row, out, 64 // a.itemsize + 4 * i)


@pytest.mark.parametrize("dtype", REALS)
def test_lines_powers_and_copies(dtype):
    values = np.array([-126, 127, -1, 0, 1, 2, 10, 100, *range(16)], dtype)
    lanes = 64 // values.itemsize
    out, powers = np.full(lanes + 16, np.nan, dtype), np.full(8, np.nan, dtype)
    lines(values, out, powers)
    np.testing.assert_array_equal(out[:lanes], values[1 : lanes + 1] + 1)
    np.testing.assert_array_equal(out[lanes:].reshape(4, 4), np.tile(values[:4, None], 4))
    np.testing.assert_array_equal(powers, 2.0 ** values[:8].astype(np.float64))


@jit
def exponentials(a, single, out):
    for i in range(0, len(out), 8):
        v.store(v.exponential(v.load(a, i, 8), single), out, i)


@pytest.mark.parametrize("dtype", REALS)
def test_exponentials_are_right_to_a_unit_in_the_last_place(dtype):
    least = -87 if dtype == np.float32 else -708
    values = np.concatenate([np.linspace(least, 0, 4000), [0.0, -0.0, -1e-30, least - 0.5, -np.inf, np.nan, -1, -0.5]])
    out = np.full(len(values), 7, dtype)
    exponentials(values.astype(dtype), dtype == np.float32, out)
    expected = np.exp(values.astype(dtype).astype(np.longdouble))
    expected[values.astype(dtype) < least] = 0  # below the normal numbers
    np.testing.assert_allclose(out, expected.astype(np.float64), rtol=2 * np.finfo(dtype).eps, atol=0)
    assert out[4000] == out[4001] == 1


@jit
def own_memory(a, count, out):
    memory = v.allocate(count, v.zero_of(a))
    pointer = v.elements(memory)
    for i in range(count):
        pointer[i] = v.zero_of(pointer) + i
    for i in range(count):
        out[i] = memory[i]
    v.hold((memory, a))
    return len(memory)


@pytest.mark.parametrize("dtype", REALS + INTEGERS)
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_memory_is_of_the_type_that_is_asked_for(dtype, count):
    out = np.full(count, 7, np.float64)
    assert own_memory(numbers(dtype), count, out) == count
    np.testing.assert_array_equal(out, np.arange(count))


def uses_of_llvm(path: Path) -> set[str]:
    """Names of llvmlite and of numba's `intrinsic` in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [ast.unparse(node)] if isinstance(node, (ast.Name, ast.Attribute)) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name for name in names if name.startswith("llvmlite") or name.split(".")[-1] == "intrinsic"}
    return found


def test_only_vectors_and_threads_know_llvm():
    folder = Path(v.__file__).parent
    uses = {path.name: found for path in folder.glob("*.py") if (found := uses_of_llvm(path))}
    assert {"llvmlite.ir", "numba.extending.intrinsic"} <= uses.pop("_vector.py")
    assert {"llvmlite.ir", "numba.extending.intrinsic"} <= uses.pop("_thread_pool.py")
    # Compiled kernels are kept by the version that compiled them.
    assert uses == {"_cache.py": {"llvmlite", "llvmlite.__version__"}}
