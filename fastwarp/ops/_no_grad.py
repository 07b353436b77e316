"""Ops once more without their derivatives, for calls that need none: `torch.ops.fastwarp.NAME_no_grad`.

Torch runs Python on the way into an op that has a derivative, also where no gradient is wanted: 11 of the 50 us that a
call of a small map takes. `fastwarp.errors.call` picks the op without, so that nobody else needs to know of it.
"""

import torch

from fastwarp.errors import WithoutDerivative, without_derivative
from fastwarp.ops._contract import fakes, implementations
from fastwarp.ops._vmap import rules


def define_without_derivative(name: str) -> None:
    """Defines `fastwarp::{name}_no_grad`: the same schema, implementation and shapes, no derivative."""
    op = getattr(torch.ops.fastwarp, name)
    schema, twin = str(op.default._schema), f"fastwarp::{name}_no_grad"
    torch.library.define(twin, schema[schema.index("(") :])
    torch.library.impl(twin, ("cpu", "cuda"))(implementations[name])
    torch.library.register_fake(twin)(fakes[name])
    # The rule goes on with the op that has a derivative: what is mapped over may need one without showing it.
    torch.library.register_vmap(twin, rules[name])
    tensors = [i for i, argument in enumerate(op.default._schema.arguments) if "Tensor" in str(argument.type)]
    without_derivative[op] = WithoutDerivative(getattr(torch.ops.fastwarp, f"{name}_no_grad").default, tensors)
