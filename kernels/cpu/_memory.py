"""Memory for results, and tensors as the arrays that kernels take."""

import ctypes
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_DTYPES: dict[torch.dtype, np.dtype] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
}
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
