"""vmap for ops whose tensors all have a leading batch dimension: the mapped dimension is folded into it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

rules: dict[str, Callable[..., Any]] = {}
"""The rules of ops by their names."""


def vmap_rule(op: str) -> Callable[..., Any]:
    """Registers what it decorates as the op's rule for `torch.vmap`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.register_vmap(f"fastwarp::{op}", function)
        rules[op] = function
        return function

    return decorate


def _flatten(args: Sequence[Any], dims: Sequence[Any]) -> list[tuple[Tensor, int | None]]:
    pairs: list[tuple[Tensor, int | None]] = []
    for arg, dim in zip(args, dims, strict=True):
        if isinstance(arg, Tensor):
            pairs.append((arg, dim))
        elif isinstance(arg, (list, tuple)) and any(isinstance(a, Tensor) for a in arg):
            pairs += _flatten(arg, dim)
    return pairs


def batch_of(args: Sequence[Any], dims: Sequence[Any]) -> int:
    """Batch size of one example: the largest of the tensors' own leading dimensions, where 1 is shared."""
    return max(t.shape[0] if d is None else t.movedim(d, 0).shape[1] for t, d in _flatten(args, dims))


def fold(size: int, batch: int, args: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
    """Every tensor `[(size,) 1 or batch, ...]` as `[size * batch, ...]`; what is no tensor as it is."""

    def one(value: Any, dim: Any) -> Any:
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return [one(v, d) for v, d in zip(value, dim, strict=True)]
        if not isinstance(value, Tensor):
            return value
        moved = value.unsqueeze(0) if dim is None else value.movedim(dim, 0)
        return moved.expand(size, batch, *moved.shape[2:]).reshape(size * batch, *moved.shape[2:])

    return [one(a, d) for a, d in zip(args, dims, strict=True)]


def unfold(size: int, result: Tensor) -> Tensor:
    """`[size * batch, ...]` as `[size, batch, ...]`."""
    return result.reshape(size, -1, *result.shape[1:])


def unfold_like(size: int, result: Tensor, like: Tensor, dim: int | None) -> Tensor:
    """A gradient `[size * batch, ...]` as that of `like`: summed over the batch where `like` was shared by it."""
    result = unfold(size, result)
    shared = (like.shape[0] if dim is None else like.movedim(dim, 0).shape[1]) == 1
    return torch.sum(result, 1, keepdim=True) if shared and result.shape[1] > 1 else result


def map_levels(op: str) -> None:
    """Registers the rule of an op that returns a list of levels, images of one batch each."""
    call = getattr(torch.ops.fastwarp, op)

    @vmap_rule(op)
    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        results = call(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
        return [unfold(info.batch_size, r) for r in results], [0] * len(results)
