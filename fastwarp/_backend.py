"""Which kernels run: Triton on GPUs, numba on CPUs, or the float64 reference."""

import contextlib
import functools
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

import torch

from fastwarp import _compiling
from fastwarp.errors import FastwarpError

NAMES = ("auto", "triton", "numba", "reference")
_NATIVE = {"cpu": "numba", "cuda": "triton"}

_active = os.environ.get("FASTWARP_BACKEND", "auto")


def _checked(name: str) -> str:
    if name not in NAMES:
        raise FastwarpError(f"backend: name is {name!r}, expected one of {', '.join(NAMES)}")
    return name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Chooses the kernels for the block, in the whole process (like `torch.backends` flags; the backward pass of a
    GPU runs in threads of its own). The environment variable `FASTWARP_BACKEND` chooses for the whole run.

    Args:
        name: `"auto"`: Triton for CUDA tensors, numba for CPU tensors. `"triton"`: also for CPU tensors, in Triton's
            interpreter (set `TRITON_INTERPRET=1` before the first use). `"numba"`: CPU tensors only. `"reference"`:
            the float64 NumPy reference, slow, for any device.

    Raises:
        FastwarpError: an unknown name.

    Examples:
        >>> import torch, fastwarp
        >>> warp = fastwarp.SeparableWarp.identity(1, (5, 5))
        >>> with fastwarp.backend("reference"):
        ...     warp.zoom(torch.ones(1, 1, 4, 4), (2, 2)).tolist()
        [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    global _active
    before, _active = _active, _checked(name)
    try:
        yield
    finally:
        _active = before


def backend_for(device: torch.device) -> str:
    """The name of the kernels that run for tensors on `device` now.

    Raises:
        FastwarpError: the chosen backend does not serve the device.
    """
    if _active == "auto":
        native = _NATIVE.get(device.type)
        if native is None:
            raise FastwarpError(f"fastwarp has kernels for cpu and cuda, got tensors on {device}")
        return native
    name = _checked(_active)
    if name == "numba" and device.type != "cpu":
        raise FastwarpError(f"the numba backend serves CPU tensors, got tensors on {device}")
    if name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise FastwarpError("the triton backend serves CPU tensors only in its interpreter: set TRITON_INTERPRET=1")
    return name


def kernels(family: str, device: torch.device) -> ModuleType:
    """The module of launchers of `family` ("axis", "separable") for tensors on `device`."""
    return launchers(backend_for(device), family)


@functools.cache  # looking a module up takes 3 us, the resampling of a small map 10
def launchers(name: str, family: str) -> ModuleType:
    """The module of launchers of `family` in the backend of that name."""
    room = {"numba": "fastwarp.kernels.cpu", "triton": "fastwarp.kernels.gpu", "reference": "fastwarp.ops._reference"}
    try:
        if name == "numba":
            _compiling.watch()
        return importlib.import_module(f"{room[name]}.{family}")
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("triton", "numba", "scipy"):
            raise FastwarpError(f"the {name} backend needs {error.name}: pip install {error.name}") from error
        raise
