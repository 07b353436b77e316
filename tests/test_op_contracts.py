"""Torch's rules for operators, kept by every op of the library: `opcheck`, fakes, storage, vmap."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_near, op_names, strange_strides, tensors
from op_arguments import BATCH, OPS, SHARED, op_arguments
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from fastwarp import FastwarpError

NO_EXTENTS = dict.fromkeys(("valid", "source_valid", "counts"))
ALL_SHARED = dict.fromkeys(SHARED, 1)
CASES = {
    "plain": ({**NO_EXTENTS, "amplitude": None, "bandwidth": None}, {"dtype": torch.float32, "antialias": False}),
    "double": ({}, {"last": True, "homography": True, "inverse": True}),
    "shared": ({**ALL_SHARED, **NO_EXTENTS}, {"dtype": torch.float32, "inverse": True, "homography": True}),
    "shared valid": ({**ALL_SHARED, "valid": BATCH, "source_valid": BATCH}, {"dtype": torch.float32, "last": True}),
}

cases = pytest.mark.parametrize("case", CASES)
ops = pytest.mark.parametrize("name", op_names())


def arguments_of(name: str, case: str) -> list:
    sharing, options = CASES[case]
    return op_arguments(name, sharing, border=True, **options)


@pytest.mark.parametrize("case", ["shared valid"])  # the fakes below see all of them
@ops
def test_opcheck(name, case):
    if torch.__version__ < (2, 7) and name == "downsize_backward":
        pytest.skip("torch 2.6 does not differentiate its convolutions twice where sizes are symbols")
    torch.library.opcheck(getattr(OPS, name).default, arguments_of(name, case))


@pytest.mark.parametrize("strange", [None, "steps", "transposed"])
@cases
@ops
def test_fakes_have_the_strides_of_the_real_results(name, case, strange):
    def laid_out(arg):
        plain = not isinstance(arg, torch.Tensor) or strange is None or arg.dim() < 2
        return arg if plain else strange_strides(arg)[strange]

    arguments = pytree.tree_map(laid_out, arguments_of(name, case))
    op = getattr(OPS, name)
    with torch.no_grad():
        real = tensors(op(*arguments))
        with FakeTensorMode() as mode:
            fake = tensors(op(*pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments)))
    assert [(r.shape, r.dtype, r.stride()) for r in real] == [(f.shape, f.dtype, f.stride()) for f in fake]


@cases
@ops
def test_results_are_no_views(name, case):
    arguments = arguments_of(name, case)
    results = tensors(getattr(OPS, name)(*arguments))
    storages = [t.untyped_storage().data_ptr() for t in (*results, *tensors(arguments)) if t.numel()]
    assert len({*storages}) == len(storages)


@cases
@ops
def test_vmap_equals_a_loop(name, case):
    """The first argument mapped alone, and everything mapped, each along a dimension that is not always the first."""
    count = 3
    examples = [arguments_of(name, case) for _ in range(count)]
    op = getattr(OPS, name)
    flat = [pytree.tree_flatten(example) for example in examples]
    spec, leaves = flat[0][1], list(zip(*(f[0] for f in flat), strict=True))
    dims = [(1 if i % 2 else 0) if isinstance(leaf[0], torch.Tensor) else None for i, leaf in enumerate(leaves)]
    single = [d if i == 0 else None for i, d in enumerate(dims)]
    for mapped in (single, dims):
        stacked = [
            leaf[0] if d is None else torch.stack([v.detach() for v in leaf], d)
            for leaf, d in zip(leaves, mapped, strict=True)
        ]
        in_dims = pytree.tree_unflatten(mapped, spec)
        got = torch.vmap(op, in_dims=tuple(in_dims))(*pytree.tree_unflatten(stacked, spec))
        rows = []
        for k in range(count):
            row = [leaf[0] if d is None else leaf[k] for leaf, d in zip(leaves, mapped, strict=True)]
            rows.append(tensors(op(*pytree.tree_unflatten(row, spec))))
        expected = [torch.stack(column).detach() for column in zip(*rows, strict=True)]
        assert_near([g.detach() for g in tensors(got)], expected, f"in_dims={in_dims}")


def test_a_kind_of_call_that_passed_is_not_taken_for_another():
    knots, options = torch.linspace(0, 1, 3)[None], (False, False, False, None, None)
    OPS.axis_windows(knots, knots, [4, 5, 6, 7], [8, 9, 10, 11], *options)
    with pytest.raises(FastwarpError, match="source_sizes"):  # the same numbers, of other levels
        OPS.axis_windows(knots, knots, [4, 5], [6, 7, 8, 9, 10, 11], *options)
