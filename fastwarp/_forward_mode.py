"""Forward-mode AD (`torch.func.jvp`, `torch.autograd.forward_ad`) through the ops.

Torch drops tangents at custom operators without a word. Inside a dual level ops are therefore called through an
`autograd.Function` that has a rule for tangents. Resampling is linear in the images: their tangents are resampled as
they are. There is no op for the tangents of anything else; those raise. Only raw calls of `torch.ops.fastwarp.*` still
drop tangents, as those of every library's operators do.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree


def in_dual_level() -> bool:
    """Whether tangents may be about; while a function is compiled, too."""
    return forward_ad._current_level >= 0


def call(op: Callable[..., Any], *args: Any) -> Any:
    """`op(*args)` in a dual level.

    Raises:
        NotImplementedError: a tangent of something else than the images of a resampling.
    """
    # Compilers have no place for an `autograd.Function` with tangents: they break their graph here. As a decorator it
    # would import the compiler with the package.
    return torch.compiler.disable(_call)(op, *args)


def _call(op: Callable[..., Any], *args: Any) -> Any:
    leaves, spec = pytree.tree_flatten(args)
    results = _Dual.apply(op, spec, *leaves)
    return results[0] if len(results) == 1 and not isinstance(args[0], list) else results


def _run(op: Callable[..., Any], spec: Any, leaves: tuple[Any, ...]) -> tuple[Tensor, ...]:
    results = op(*pytree.tree_unflatten(leaves, spec))
    return (results,) if isinstance(results, Tensor) else tuple(results)


class _Dual(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(op: Callable[..., Any], spec: Any, *leaves: Any) -> tuple[Tensor, ...]:
        return _run(op, spec, leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.op, ctx.spec, *leaves = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in output if not t.is_floating_point()))
        ctx.others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        tensors = [leaf if isinstance(leaf, Tensor) else None for leaf in leaves]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, _op: Any, _spec: Any, *tangents: Any) -> tuple[Tensor, ...]:
        leaves = _leaves(ctx)
        levels = len(pytree.tree_unflatten(leaves, ctx.spec)[0]) if _is_resampling(ctx) else 0
        if any(isinstance(t, Tensor) for t in tangents[levels:]):
            name = str(ctx.op).removeprefix("fastwarp.")
            allowed = "of images only" if levels else "nowhere: use reverse mode"
            raise NotImplementedError(f"{name}: forward-mode AD goes through resampling, for tangents {allowed}")
        moved = [torch.zeros_like(p) if t is None else t for p, t in zip(leaves, tangents[:levels], strict=False)]
        return tuple(call(ctx.op, *pytree.tree_unflatten([*moved, *leaves[levels:]], ctx.spec)))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        leaves = _leaves(ctx)
        higher = torch.is_grad_enabled()
        with torch.enable_grad():
            wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
            for i in wanted:
                leaves[i] = leaves[i].view_as(leaves[i]) if higher else leaves[i].detach().requires_grad_()
            results = _run(ctx.op, ctx.spec, tuple(leaves))
            pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None and r.requires_grad]
            found = torch.autograd.grad(
                [r for r, _ in pairs],
                [leaves[i] for i in wanted],
                [g for _, g in pairs],
                allow_unused=True,
                create_graph=higher,
            )
        by_leaf = dict(zip(wanted, found, strict=True))
        return (None, None, *(by_leaf.get(i) for i in range(len(leaves))))


def _leaves(ctx: Any) -> list[Any]:
    return [o if t is None else t for t, o in zip(ctx.saved_tensors, ctx.others, strict=True)]


def _is_resampling(ctx: Any) -> bool:
    """All ops that take a list of levels first are linear in it."""
    return isinstance(pytree.tree_unflatten(_leaves(ctx), ctx.spec)[0], list)
