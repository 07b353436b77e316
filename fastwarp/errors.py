"""The one error type of the library's own, and the checks that raise it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class FastwarpError(ValueError):
    """An argument that fastwarp cannot work with. The message names function, argument, what was got and expected."""


def fail(function: str, argument: str, got: Any, expected: str) -> FastwarpError:
    """The error for `argument` of `function`."""
    return FastwarpError(f"{function}: {argument} is {got}, expected {expected}")


def check_tensor(
    function: str, argument: str, value: Any, shape: str, *, dtypes: Sequence[torch.dtype] = (), floating: bool = False
) -> None:
    """Raises TypeError unless `value` is a tensor of the dtypes asked for, FastwarpError unless it has the rank of
    `shape`.

    Args:
        function: public name of the caller.
        argument: name of the argument.
        value: what was passed.
        shape: the expected shape as text, e.g. `"[B, h, w]"`; its rank is checked.
        dtypes: allowed dtypes; empty means any.
        floating: any floating-point dtype is allowed, no other.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {argument} is {type(value).__name__}, expected a torch.Tensor {shape}")
    rank = shape.count(",") + 1
    if value.dim() != rank:
        raise fail(function, argument, f"of shape {list(value.shape)}", f"{rank} dimensions {shape}")
    if (floating and not value.dtype.is_floating_point) or (dtypes and value.dtype not in dtypes):
        names = ", ".join(str(d).removeprefix("torch.") for d in dtypes) or "a floating-point dtype"
        raise TypeError(f"{function}: {argument} has dtype {str(value.dtype).removeprefix('torch.')}, expected {names}")


def check_size(function: str, argument: str, value: Any) -> tuple[int, int]:
    """`value` as (height, width), both at least 1."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{function}: {argument} is {value!r}, expected two integers (height, width)")
    for side in value:
        if isinstance(side, bool) or not isinstance(side, (int, torch.SymInt)):
            raise TypeError(f"{function}: {argument} is {value!r}, expected two integers (height, width)")
        if side < 1:
            raise fail(function, argument, tuple(value), "a height and a width of at least 1")
    return value[0], value[1]


def check_devices(function: str, **tensors: Tensor | None) -> None:
    """Raises FastwarpError unless all tensors are on one device."""
    first, device = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if device is None:
            first, device = name, tensor.device
        elif tensor.device != device:
            got = f"{first} on {device}, {name} on {tensor.device}"
            raise FastwarpError(f"{function}: got {got}, expected all on one device")


def check_batches(function: str, *, batch: int | None = None, **tensors: Tensor | None) -> None:
    """Raises FastwarpError unless all leading dimensions are `batch`, or 1 where a warp or an extent is shared.

    Args:
        function: public name of the caller.
        batch: what the images say; None: any, but one.
        tensors: by the names of the arguments.
    """
    for name, tensor in tensors.items():
        size = 1 if tensor is None else tensor.shape[0]
        if batch is None and size != 1:
            batch = size
        if size not in (1, batch):
            expected = "a batch of 1" if batch == 1 else f"a batch of 1 or {batch}"
            raise fail(function, name, f"a batch of {size}", expected)


def call(function: str, op: Callable[..., Any], *args: Any) -> Any:
    """`op(*args)`, whose errors begin with the public name of the function."""
    if torch.compiler.is_compiling():
        return op(*args)
    try:
        return op(*args)
    except FastwarpError as error:
        raise FastwarpError(f"{function}: {error}") from None
