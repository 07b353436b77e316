"""What kernels get: memory for results, tensors as arrays, extents of padded images; and their working arrays."""

import ctypes
import functools
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import allocate, elements, zero_of

_DTYPES: dict[torch.dtype, np.dtype] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
}
_STORAGE = {torch.float16: np.uint16, torch.bfloat16: np.int16}
_NO_EXTENTS = np.zeros((0, 0, 0), np.int64)
_LARGE = 4 << 20  # bytes: from here on there is a whole huge page, and glibc may give memory back and ask for it anew
_PAGE = 4096
_MADV_HUGEPAGE = 14

_madvise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
if _madvise is not None:
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Memory(ctypes.c_char * 2**62):  # type: ignore[misc]
    """All that lies behind an address, and whom it belongs to."""

    __slots__ = ("tensor",)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a contiguous array, which keeps it alive; of a strided tensor a copy, because numba would
    compile once more for it.

    `Tensor.numpy` would forbid for ever that the storage is resized, as FSDP and `out=` do. It takes as long.
    """
    tensor = tensor if tensor.is_contiguous() else tensor.contiguous()
    memory = _Memory.from_address(tensor.data_ptr())
    memory.tensor = tensor
    return np.ndarray(tensor.shape, _DTYPES[tensor.dtype], memory)


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The array's values in memory of torch's own: that of `torch.from_numpy` cannot be resized, and its strides are
    NumPy's where the array is empty.
    """
    return torch.empty(array.shape, dtype=dtype).copy_(torch.from_numpy(array))


def empty(shape: Sequence[int], dtype: torch.dtype, format_: torch.memory_format) -> Tensor:
    """`torch.empty`, in huge pages where it is large and Linux offers them: 512 times fewer page faults.

    Large results come from the system page by page, which can take longer than filling them.
    """
    result = torch.empty(shape, dtype=dtype, device="cpu", memory_format=format_)
    size = result.nbytes
    if size >= _LARGE and _madvise is not None:
        start = -(-result.data_ptr() // _PAGE) * _PAGE
        _madvise(start, (result.data_ptr() + size - start) // _PAGE * _PAGE, _MADV_HUGEPAGE)  # advice: may be ignored
    return result


def extents_array(extents: Tensor | None) -> np.ndarray:
    """Extents of padded images, `[1 or B, levels, 2]` (height, width), as kernels take them: an empty array where none
    are given."""
    return _NO_EXTENTS if extents is None else array(extents)


@functools.cache
def like(dtype: torch.dtype) -> np.ndarray:
    """An empty array of the type that kernels take stored values for, see `_vector`."""
    return np.empty(0, _STORAGE.get(dtype) or torch.empty(0, dtype=dtype, device="cpu").numpy().dtype)


@functools.cache
def real(dtype: torch.dtype) -> np.ndarray:
    """0 and 1 of the type that accumulates: literals of the kernels would be float64."""
    return np.array([0, 1], np.float64 if dtype == torch.float64 else np.float32)


def shares_windows(windows: Tensor | np.ndarray, source_valid: Tensor | None) -> bool:
    """Whether all images have the same windows, so that their planes are one long list."""
    return windows.shape[0] == 1 and (source_valid is None or source_valid.shape[0] == 1)


@inline
def extent(extents, b, level, axis, whole):
    """Pixels of an axis of image b that are not padding, of extents as `extents_array` makes them."""
    if len(extents) == 0:
        return whole
    first = (b if len(extents) > 1 else 0) * extents.shape[1] + level
    return min(max(elements(extents)[2 * first + axis], 0), whole)


# --- working arrays ---------------------------------------------------------------------------------------------------


@inline
def integers(count):
    """`count` int64, of any values."""
    return allocate(count, np.int64(0))


@inline
def small_integers(count):
    """`count` int32, of any values."""
    return allocate(count, np.int32(0))


@inline
def doubles(count):
    """`count` float64, of any values."""
    return allocate(count, 0.0)


@inline
def numbers(count, real):
    """`count` numbers of the type of the array `real`, of any values."""
    return allocate(count, zero_of(real))


@inline
def zeros(count, real):
    """`count` zeros of the type of the array `real`."""
    result = allocate(count, zero_of(real))
    clear(elements(result), count)
    return result


@inline
def clear(memory, count):
    """Makes the first `count` numbers 0."""
    for i in range(count):
        memory[i] = 0
