"""What every launcher shares: the interpreter, the device, integers that do not recompile, the lookup of a segment."""

import contextlib
import functools
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED: bool = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Kernels run in Triton's interpreter, on the CPU. A program costs milliseconds there: launchers take large blocks."""


def device_of(tensor: Tensor) -> Any:
    """Context in which a launch goes to the tensor's GPU: Triton takes the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def cdiv(n: int, block: int) -> int:
    """Blocks that n elements take. `triton.cdiv` takes thirty times as long on the host, and a launch asks often."""
    return -(-n // block)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not less than n >= 1; see `cdiv`."""
    return 1 << (n - 1).bit_length()


@functools.lru_cache(1024)
def blocks_of(sizes: tuple[int, ...], block: int) -> int:
    """Programs that segments of these sizes take, see `find_segment`."""
    return sum(cdiv(size, block) for size in sizes)


@functools.lru_cache(1024)
def pack(*values: int) -> tuple[int, ...]:
    """Integers for a kernel's tuple argument; `unpack` reads them.

    Triton compiles a kernel anew for every pattern of ones and multiples of 16 among the integers of a tuple (only
    plain arguments can opt out), that is for every few image sizes. As odd numbers above 1 they all look alike.
    """
    return tuple(2 * value + 3 for value in values)


@triton.jit
def unpack(value):
    return (value - 3) >> 1


@triton.jit
def hint(x, ALIGNED: tl.constexpr):
    """x, as a multiple of 16 that the compiler sees (`tl.multiple_of` on an argument is lost when this is inlined)."""
    return (x >> 4) * 16 if ALIGNED else x


@triton.jit
def find_segment(pid, sizes, BLOCK: tl.constexpr):
    """Segment that program `pid` works on when each segment takes cdiv(size, BLOCK) programs in turn.

    Returns the segment, its size, the sum of the sizes before it, and the program's first element in it.
    """
    segment = 0
    size = unpack(sizes[0]).to(tl.int32)
    start = 0
    first = 0
    next_start = 0
    next_first = 0
    for s in tl.static_range(len(sizes)):
        if pid >= next_first:
            segment = s
            size = unpack(sizes[s]).to(tl.int32)
            start = next_start
            first = next_first
        next_start += unpack(sizes[s]).to(tl.int32)
        next_first += tl.cdiv(unpack(sizes[s]).to(tl.int32), BLOCK)
    return segment, size, start, (pid - first) * BLOCK


@triton.jit
def select(values, index):
    """One of the packed integers."""
    value = unpack(values[0]).to(tl.int64)
    for i in tl.static_range(1, len(values)):
        value = tl.where(index == i, unpack(values[i]).to(tl.int64), value)
    return value
