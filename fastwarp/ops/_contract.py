"""What every op checks of its arguments before a kernel reads memory, once for all backends.

`implement` registers an op together with a rule for each argument whose shape, dtype or length a kernel relies on.
Public functions check more, and say it in the words of their callers; these are the least that keeps any call of
`torch.ops.fastwarp.*` inside of its arguments' memory.

Dimensions have names, and one name is one number in all arguments of a call. `b` is the batch B or 1, shared by all
images; L is the number of levels, P that of their targets: of rows and columns, or of pixels. `n:2` is at least 2, `_`
any number. All tensors are on one device, and all of one set of dtypes have one dtype.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp.errors import FastwarpError

Known = dict[Any, Any]
"""What the arguments so far have said: numbers by the names of dimensions, dtypes by their sets, the device."""
Rule = Callable[[Any, Known], None]

REAL = frozenset({torch.float32, torch.float64})
FLOAT = REAL | {torch.float16, torch.bfloat16}
IMAGE = FLOAT | {torch.uint8}
BYTE, INT32, INT64 = frozenset({torch.uint8}), frozenset({torch.int32}), frozenset({torch.int64})
INTEGER = INT32 | INT64

MOST = 2**30
"""Most pixels along a side: kernels count them in 32 bits, and windows in float32 round them."""
_MOST_VALUES = 2**31 - 1
_MOST_KINDS = 4096  # kinds of calls of an op that are remembered, see `_kind_of`
_MOST_IMAGES = 65535
"""On a GPU: they are a dimension of the grid of programs, which has no more."""


implementations: dict[str, Callable[..., Any]] = {}
"""What `implement` registered, by the names of the ops."""
fakes: dict[str, Callable[..., Any]] = {}
"""What `fake` registered."""


class _Fake:
    """Key in `Known`: tensors have no values."""


def implement(op: str, *, also: Callable[[Known], str] | None = None, **rules: Rule) -> Callable[..., Any]:
    """Registers what it decorates as the op on CPUs and GPUs, behind the checks.

    Args:
        op: name of the op, without its namespace.
        also: gets all that is known, says what is wrong with it, or nothing.
        rules: by the names of the arguments.
    """
    check = _checks(op, also, rules)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def checked(*args: Any) -> Any:
            if torch.compiler.is_compiling():  # of a call that broke its graph, which torch tries to compile inside
                return torch.compiler.disable(checked)(*args)
            check(args, {})
            return function(*args)

        torch.library.impl(f"fastwarp::{op}", ("cpu", "cuda"))(checked)
        implementations[op] = checked
        return checked

    return decorate


_of_op: dict[str, Callable[[Sequence[Any], Known], None]] = {}


def fake(op: str) -> Callable[..., Any]:
    """Registers what it decorates as the op on tensors without values, behind the same checks of shapes and dtypes;
    not where a shape is a symbol, which a check would fix to a number."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def checked(*args: Any) -> Any:
            if not any(map(_symbolic, args)):
                _of_op[op](args, {_Fake: True})
            return function(*args)

        torch.library.register_fake(f"fastwarp::{op}")(checked)
        fakes[op] = checked
        return checked

    return decorate


def _symbolic(value: Any) -> bool:
    if isinstance(value, Tensor):
        return any(type(side) is not int for side in value.shape)
    if isinstance(value, (list, tuple)):
        return any(map(_symbolic, value))
    return isinstance(value, torch.SymInt)


def _checks(
    op: str, also: Callable[[Known], str] | None, rules: dict[str, Rule]
) -> Callable[[Sequence[Any], Known], None]:
    arguments = getattr(torch.ops.fastwarp, op).default._schema.arguments
    names, kind_of = [argument.name for argument in arguments], _kind_of(arguments)
    numbered = sorted((names.index(name), rule) for name, rule in rules.items())
    reads_values = any(hasattr(rule, "reads_values") for rule in rules.values())
    passed: set[tuple[Any, ...]] = set()

    def check(args: Sequence[Any], known: Known) -> None:
        kind = kind_of(args)
        if kind in passed:
            return
        try:
            for index, rule in numbered:
                rule(args[index], known)
        except (FastwarpError, TypeError) as error:
            raise type(error)(f"fastwarp::{op}: {names[index]} {error}") from None
        if wrong := (also is not None and also(known)) or _beyond_gpus(known):
            raise FastwarpError(f"fastwarp::{op}: {wrong}")
        if not reads_values and len(passed) < _MOST_KINDS:
            passed.add(kind)

    _of_op[op] = check
    return check


def _kind_of(arguments: Sequence[Any]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """The function that says of which kind a call is: all that rules look at but for values of tensors. Checks take
    several times as long. `arguments` are those of the op's schema."""
    types = [str(argument.type) for argument in arguments]
    tensors = [i for i, type_ in enumerate(types) if type_ in ("Tensor", "Optional[Tensor]")]
    levels = [i for i, type_ in enumerate(types) if type_ == "List[Tensor]"]
    lists = [i for i, type_ in enumerate(types) if type_.startswith("List[") and i not in levels]
    others = [i for i in range(len(types)) if i not in (*tensors, *levels, *lists)]

    def kind(args: Sequence[Any]) -> tuple[Any, ...]:
        found = [args[i] for i in others]
        for i in lists:
            found.append(tuple(args[i]))
        for i in levels:
            found.append(len(args[i]))
            for one in args[i]:
                found += (one.dtype, one.shape, one.device)
        for i in tensors:
            one = args[i]
            found += (None,) if one is None else (one.dtype, one.shape, one.device)
        return tuple(found)

    return kind


def _beyond_gpus(known: Known) -> str:
    """What is wrong with sizes that CPUs can do: kernels of GPUs count the pixels of an image in 32 bits."""
    if known["device"].type != "cuda":
        return ""
    if known.get("B", 1) > _MOST_IMAGES:
        return f"got {known['B']} images, expected at most {_MOST_IMAGES} in one call on a GPU"
    sides = [*known.get("sides", ()), *(known.get(name, 1) for name in "HWhw")]
    for height, width in zip(sides[::2], sides[1::2], strict=True):
        if height * width > _MOST_VALUES:
            return f"got {height} x {width} pixels, expected fewer than 2**31 on a GPU"
    return ""


# --- tensors ----------------------------------------------------------------------------------------------------------


def tensor(dtypes: frozenset[torch.dtype], dims: str, *, free: bool = False, optional: bool = False) -> Rule:
    """A tensor.

    Args:
        dtypes: that it may have.
        dims: names of its dimensions, or numbers, as in `"b n:2 2"`.
        free: its dtype may be another than that of other arguments with the same `dtypes`.
        optional: may be None.
    """
    parsed = [_dimension(word) for word in dims.split()]
    rank, dtype_key = len(parsed), object() if free else dtypes

    def rule(value: Any, known: Known) -> None:
        if optional and value is None:
            return
        dtype, shape, device = value.dtype, value.shape, value.device
        if dtype not in dtypes or known.setdefault(dtype_key, dtype) is not dtype:
            raise TypeError(f"has dtype {_name(dtype)}, expected {_expected_dtype(known.get(dtype_key), dtypes)}")
        if known.setdefault("device", device) != device:
            raise FastwarpError(f"is on {device}, expected {known['device']} as what comes before it")
        before = len(known)
        fits = len(shape) == rank
        if fits:
            for (name, shared, least, most), size in zip(parsed, shape, strict=True):
                if size != 1 or not shared:
                    fits &= least <= size <= most and (name == "_" or known.setdefault(name, size) == size)
        if not fits:
            known = dict(list(known.items())[:before])  # without what this tensor says
            expected = ", ".join(_text(dimension, known) for dimension in parsed)
            raise FastwarpError(f"is of shape {list(shape)}, expected [{expected}]")

    return rule


def _dimension(word: str) -> tuple[str, bool, int, int]:
    """Name, whether 1 is shared by all of a batch, least and greatest size, of `"n"`, `"n:2"`, `"b"` or `"3"`."""
    name, _, least = word.partition(":")
    if name.isdigit():
        return name, False, int(name), int(name)
    return ("B" if name == "b" else name), name == "b", int(least or 0), _MOST_VALUES


def _text(dimension: tuple[str, bool, int, int], known: Known) -> str:
    name, shared, least, _ = dimension
    size = str(known.get(name, name))
    if shared:
        return f"1 or {size}"
    return size if name in known or name.isdigit() or not least else f"{size} >= {least}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _expected_dtype(first: torch.dtype | None, dtypes: frozenset[torch.dtype]) -> str:
    if first in dtypes:
        return f"{_name(first)} as what comes before it"
    return ", ".join(sorted(_name(dtype) for dtype in dtypes))


extents = tensor(INT64, "b L 2", optional=True)
"""`valid` and `source_valid`."""


def image(dtypes: frozenset[torch.dtype], dims: str) -> Rule:
    """A single level, with sides called H and W that kernels can count."""
    shape = tensor(dtypes, dims)

    def rule(value: Any, known: Known) -> None:
        shape(value, known)
        known["L"] = 1
        _check_sides((known["H"], known["W"]))

    return rule


def levels(dtypes: frozenset[torch.dtype], batch: str, targets: Callable[[Sequence[int]], int] | None = None) -> Rule:
    """Images of a pyramid: L maps `[batch, C, h, w]`, all such arguments with the same channels.

    Args:
        dtypes: that they may have.
        batch: `"B"` or `"b"`.
        targets: how many targets, P, their sizes make; None: they are no targets.
    """
    one = tensor(dtypes, f"{batch} _ _:1 _:1")

    def rule(value: Any, known: Known) -> None:
        if not value or known.setdefault("L", len(value)) != len(value):
            raise FastwarpError(f"has {len(value)} levels, expected {known.get('L', 'at least 1')}")
        if any(map_.shape[:1] != value[0].shape[:1] for map_ in value[1:]):
            raise FastwarpError(f"has batches of {[map_.shape[:1] for map_ in value]}, expected one batch")
        channels: list[int] = []
        sides: list[int] = []
        for level, map_ in enumerate(value):
            try:
                one(map_, known)
            except (FastwarpError, TypeError) as error:
                raise type(error)(f"level {level} {error}") from None
            _, c, height, width = map_.shape
            channels.append(c)
            sides += (height, width)
        if known.setdefault("channels", channels) != channels:
            raise FastwarpError(f"has {channels} channels, expected {known['channels']}")
        _check_sides(sides)
        known.setdefault("sides", []).extend(sides)
        if targets is not None:
            known["P"] = targets(sides)

    return rule


def indices(dims: str, below: Callable[[Known], int], *, least: int = 0, rising: bool = False) -> Rule:
    """An int32 tensor of places in something else, whose values are looked at on CPUs: on a GPU that would wait for it.

    Args:
        dims: as of `tensor`.
        below: one more than the largest, by what is known.
        least: smallest value.
        rising: values never decrease.
    """
    shape = tensor(INT32, dims)

    def rule(value: Any, known: Known) -> None:
        shape(value, known)
        if value.numel() == 0 or value.device.type != "cpu" or _Fake in known:
            return
        low, high, most = int(value.min()), int(value.max()), below(known) - 1
        if low < least or high > most:
            raise FastwarpError(f"has values from {low} to {high}, expected {least} to {most}")
        if rising and bool((value[1:] < value[:-1]).any()):
            raise FastwarpError("decreases somewhere, expected values that never do")

    rule.reads_values = True  # type: ignore[attr-defined]
    return rule


# --- numbers ----------------------------------------------------------------------------------------------------------


def rows_and_columns(sides: Sequence[int]) -> int:
    """Targets that a separable warp makes windows for."""
    return sum(sides)


def pixels(sides: Sequence[int]) -> int:
    """Targets that a mesh makes windows for."""
    return sum(height * width for height, width in zip(sides[::2], sides[1::2], strict=True))


def sizes(targets: Callable[[Sequence[int]], int] | None = None) -> Rule:
    """Sizes `[h1, w1, ...]` of L maps, with `targets` as of `levels`."""

    def rule(value: Any, known: Known) -> None:
        count = known.setdefault("L", len(value) // 2)
        if len(value) != 2 * count or not count:
            raise FastwarpError(f"is {list(value)}, expected {2 * count or 'two'} numbers, two for each level")
        _check_sides(value)
        known.setdefault("sides", []).extend(value)
        if targets is not None:
            total = targets(value)
            if known.setdefault("P", total) != total or total > _MOST_VALUES:
                got = f"is {list(value)}, which makes {total} targets"
                raise FastwarpError(f"{got}, expected {known['P'] if known['P'] != total else 'less than 2**31'}")

    return rule


def _check_sides(sides: Sequence[int]) -> None:
    if not 1 <= min(sides) <= max(sides) <= MOST:
        raise FastwarpError(f"has sides of {list(sides)} pixels, expected 1 to 2**30")


def numbers(dimension: str) -> Rule:
    """A list of as many floats."""

    def rule(value: Any, known: Known) -> None:
        if known.setdefault(dimension, len(value)) != len(value):
            raise FastwarpError(f"has {len(value)} numbers, expected {known[dimension]}")

    return rule


def integer(name: str, least: int) -> Rule:
    """An integer that other arguments have as a dimension."""

    def rule(value: Any, known: Known) -> None:
        if not least <= value <= MOST or known.setdefault(name, value) != value:
            raise FastwarpError(f"is {value}, expected {known.get(name, f'{least} to 2**30')}")

    return rule


def one_of(values: frozenset[Any]) -> Rule:
    """A dtype or a word."""

    def rule(value: Any, known: Known) -> None:
        if value not in values:
            raise FastwarpError(f"is {value}, expected {' or '.join(sorted(map(str, values)))}")

    return rule
