"""Ops without their derivatives: taken where no gradient is wanted, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_bitwise, tensors
from op_arguments import OPS
from test_op_contracts import arguments_of
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fastwarp import functional as F
from fastwarp.errors import without_derivative

KNOTS = torch.linspace(0, 1, 5)[None] ** 1.2
NAMES = sorted(str(op).removeprefix("fastwarp.") for op in without_derivative)


class Called(TorchDispatchMode):
    """The names of the library's ops that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastwarp":
            self.names.append(str(func).split(".")[1])
        return func(*args, **kwargs or {})


def zoom(image, knots=KNOTS):
    return F.separable_zoom(image, knots, KNOTS, (6, 7))


@pytest.mark.parametrize("name", NAMES)
def test_results_and_rules_are_those_of_the_op(name):
    arguments = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, arguments_of(name, "shared valid"))
    op = without_derivative[getattr(OPS, name)].op
    assert_bitwise(tensors(op(*arguments)), tensors(getattr(OPS, name)(*arguments)))
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


def test_the_op_follows_from_what_needs_a_gradient():
    image, leaf = torch.rand(1, 2, 9, 8), torch.rand(1, 2, 9, 8, requires_grad=True)
    knots = KNOTS.clone().requires_grad_()
    for arguments, grad_mode, name in (
        ((image,), True, "separable_sample_no_grad"),
        ((leaf,), True, "separable_sample"),
        ((image, knots), True, "separable_sample"),
        ((leaf, knots), False, "separable_sample_no_grad"),
    ):
        with Called() as called, torch.set_grad_enabled(grad_mode):
            result = zoom(*arguments)
        assert called.names == [name]
        assert result.requires_grad == (not name.endswith("no_grad"))
        torch.testing.assert_close(result.detach(), zoom(*(a.detach() for a in arguments)))


@pytest.mark.parametrize("levels", [1, 2])
def test_gradients_come_through_vmap(levels):
    """Inside, what is mapped over does not say that it needs a gradient."""
    images = torch.rand(*(2, 3)[:levels], 1, 2, 9, 8, dtype=torch.float64, requires_grad=True)
    knots = KNOTS.double()

    def one(image):
        return F.separable_zoom(image, knots, knots, (6, 7)).square()

    mapped = one
    for _ in range(levels):
        mapped = torch.vmap(mapped)
    (got,) = torch.autograd.grad(mapped(images).sum(), images)
    flat = images.detach().flatten(0, -4).requires_grad_()
    (expected,) = torch.autograd.grad(one(flat).sum(), flat)
    torch.testing.assert_close(got.reshape(flat.shape), expected)


def test_a_call_like_one_that_passed_is_still_checked_by_its_values():
    """Checks of shapes are remembered; those of indices must not be."""
    arguments = arguments_of("downsize", "plain")
    OPS.downsize(*arguments)
    integers = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor) and a.dtype == torch.int32]
    assert integers
    for index in integers:
        wrong = [a.clone() if i == index else a for i, a in enumerate(arguments)]
        wrong[index].fill_(2**30)
        with pytest.raises(ValueError, match="has values"):
            OPS.downsize(*wrong)


def test_a_call_that_failed_fails_again():
    for _ in range(2):
        with pytest.raises(ValueError, match="expected"):
            OPS.separable_sample([torch.rand(1, 1, 4, 4)], KNOTS[0], KNOTS, [3, 3], False, False, False, None, None)
