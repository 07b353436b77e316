"""The one error type of the library's own, and the checks that raise it."""

import math
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwarp import _forward_mode


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


def as_integer(value: Any) -> Any:
    """`value` as an int, or torch's symbolic one; None unless it is what `F.interpolate` takes for an integer: those of
    NumPy are, and integer tensors of one element (on a GPU this waits for it)."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None  # NumPy 1 takes its own for an integer
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # what torch raises depends on its version
        return None


def as_real(value: Any) -> Any:
    """`value` as a float, or torch's symbolic number; None unless it is a real number, Python's or NumPy's. Tensors are
    none, as for `F.interpolate`: a gradient to them would be lost."""
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        return None
    try:
        return float(value)
    except OverflowError:  # an int may be as large as it likes
        return math.inf if int(value) > 0 else -math.inf  # type: ignore[arg-type]


def check_size(function: str, argument: str, value: Any) -> tuple[int, int]:
    """`value` as (height, width), both at least 1.

    One number for both is refused: `F.interpolate` makes a square of it, torchvision's `Resize` the shorter side.
    """
    is_pair = isinstance(value, (tuple, list)) or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))
    height, width = map(as_integer, value) if is_pair and len(value) == 2 else (None, None)
    if height is None or width is None:
        raise TypeError(f"{function}: {argument} is {value!r}, expected two integers (height, width)")
    if height < 1 or width < 1:
        raise fail(function, argument, (height, width), "a height and a width of at least 1")
    return height, width


def check_devices(function: str, **tensors: Tensor | None) -> None:
    """Raises FastwarpError unless all tensors are on one device."""
    _check_devices(function, tensors)


def _check_devices(function: str, tensors: Mapping[str, Tensor | None]) -> None:
    first, device = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if device is None:
            first, device = name, tensor.device
        elif tensor.device != device:
            got = f"{first} on {device}, {name} on {tensor.device}"
            raise FastwarpError(f"{function}: got {got}, expected all on one device")


def check_together(function: str, *, batch: int | None = None, **tensors: Tensor | None) -> None:
    """Raises FastwarpError unless all tensors are on one device, and all leading dimensions are `batch`, or 1 where a
    warp or an extent is shared.

    Args:
        function: public name of the caller.
        batch: what the images say; None: any, but one.
        tensors: by the names of the arguments.
    """
    _check_devices(function, tensors)
    for name, tensor in tensors.items():
        size = 1 if tensor is None else tensor.shape[0]
        if size != 1:
            if batch is None:
                batch = size
            elif size != batch:
                expected = "a batch of 1" if batch == 1 else f"a batch of 1 or {batch}"
                raise fail(function, name, f"a batch of {size}", expected)


class WithoutDerivative(NamedTuple):
    """The twin of an op that has no derivative, and which arguments of both are tensors or lists of them."""

    op: Callable[..., Any]
    tensors: Sequence[int]


without_derivative: dict[Callable[..., Any], WithoutDerivative] = {}
"""The twins of the ops that have one, see `fastwarp.ops._no_grad`."""


def call(function: str, op: Callable[..., Any], *args: Any) -> Any:
    """`op(*args)`, whose errors begin with the public name of the function, and which loses no tangents."""
    if _forward_mode.in_dual_level():
        op, args = _forward_mode.call, (op, *args)
    if torch.compiler.is_compiling():
        return op(*args)
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        args = tuple([_traced(item) for item in arg] if isinstance(arg, list) else arg for arg in args)
    elif (twin := without_derivative.get(op)) and not (
        torch.is_grad_enabled() and _any_requires_grad(args, twin.tensors)
    ):
        op = twin.op
    try:
        return op(*args)
    except FastwarpError as error:
        raise FastwarpError(f"{function}: {error}") from None


_requires_grad = operator.attrgetter("requires_grad")


def _any_requires_grad(args: Sequence[Any], tensors: Sequence[int]) -> bool:
    for number in tensors:
        arg = args[number]
        if any(map(_requires_grad, arg)) if isinstance(arg, list) else arg is not None and arg.requires_grad:
            return True
    return False


def _traced(item: Any) -> Any:
    """While `torch.jit.trace` runs, sizes of tensors are tensors, which it cannot record in lists for custom operators:
    numbers then, so that a trace is for the sizes it was made with. torch warns of that."""
    return int(item) if isinstance(item, Tensor) and item.dim() == 0 else item
