"""What the public functions check of their arguments, and how levels and their options are taken apart."""

import copy
import os
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp import _forward_mode
from fastwarp.errors import as_integer, as_real, check_devices, check_size, check_tensor, check_together, fail

IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
GEOMETRY_DTYPES = (torch.float32, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)

MODES = ("bilinear", "nearest")

LEAST, MOST = 1e-30, 1e30
"""The numbers that options may be, in size: squares and products of a few of these are still numbers in float64."""

_CHECKS = os.environ.get("FASTWARP_CHECKS", "0") == "1"


def as_geometry(tensor: Tensor) -> Tensor:
    """Geometry is at least float32, whatever the dtype it comes in."""
    return tensor if tensor.dtype in GEOMETRY_DTYPES else tensor.float()


def check_axis(function: str, argument: str, knots: Tensor) -> None:
    """Raises unless the knots of one axis are fit for the kernels; their values only with `FASTWARP_CHECKS=1`."""
    check_tensor(function, argument, knots, "[B, n]", dtypes=GEOMETRY_DTYPES)
    if knots.shape[1] < 2:
        raise fail(function, argument, f"of shape {list(knots.shape)}", "at least 2 knots")
    if _CHECKS:
        check_knot_values(function, **{argument: knots})


def check_knots(
    function: str, knots_y: Tensor, knots_x: Tensor, batch: int | None = None, **beside: Tensor | None
) -> None:
    """Raises unless the knots of the two axes are fit for the kernels, for a `batch` of images, and for the tensors
    `beside` them, by the names of their arguments."""
    check_axis(function, "knots_y", knots_y)
    check_axis(function, "knots_x", knots_x)
    if knots_y.dtype != knots_x.dtype:
        raise TypeError(f"{function}: knots_y is {knots_y.dtype}, knots_x is {knots_x.dtype}, expected one dtype")
    check_together(function, batch=batch, **beside, knots_y=knots_y, knots_x=knots_x)


def check_knot_values(function: str, **axes: Tensor) -> None:
    """Raises FastwarpError unless the knots are finite and never decrease. Waits for a GPU; see `SeparableWarp.check`.

    Args:
        function: the name that the message begins with.
        axes: knots `[B, n]`, by the names of their arguments.
    """
    for name, knots in axes.items():
        bad = ~torch.isfinite(knots)
        if bad.any():
            image, knot = bad.nonzero()[0].tolist()
            raise fail(function, f"{name}[{image}, {knot}]", knots[image, knot].item(), "finite values")
        falls = knots[:, 1:] < knots[:, :-1]
        if falls.any():
            image, knot = falls.nonzero()[0].tolist()
            pair = knots[image, knot : knot + 2].tolist()
            raise fail(function, f"{name}[{image}, {knot}:{knot + 2}]", pair, "knots that never decrease")


def check_mesh(function: str, mesh: Tensor, batch: int | None = None, **beside: Tensor | None) -> None:
    """Raises unless the mesh is fit for the kernels, for a `batch` of images, and for the tensors `beside` it, by the
    names of their arguments; its values only with `FASTWARP_CHECKS=1`."""
    check_tensor(function, "mesh", mesh, "[B, h, w, 2]", dtypes=GEOMETRY_DTYPES)
    if mesh.shape[3] != 2 or min(mesh.shape[1:3]) < 2:
        raise fail(function, "mesh", f"of shape {list(mesh.shape)}", "[B, h, w, 2], (x, y), with h, w >= 2")
    check_together(function, batch=batch, **beside, mesh=mesh)
    if _CHECKS and not torch.isfinite(mesh).all():
        image, row, column, _ = (~torch.isfinite(mesh)).nonzero()[0].tolist()
        raise fail(function, f"mesh[{image}, {row}, {column}]", mesh[image, row, column].tolist(), "finite values")


def check_option(function: str, argument: str, value: Any, options: Sequence[str]) -> None:
    """Raises FastwarpError unless `value` is one of `options`."""
    if value not in options:
        raise fail(function, argument, repr(value), " or ".join(repr(o) for o in options))


def check_mode(function: str, mode: Any, antialias: Any) -> tuple[torch.dtype, ...]:
    """The dtypes that images of a mode may have; raises FastwarpError for an unknown one, and for one that does not
    average where that is asked for."""
    check_option(function, "mode", mode, MODES)
    if mode == "bilinear":
        return IMAGE_DTYPES
    if antialias:
        raise fail(function, "antialias", antialias, "False with mode 'nearest', which takes single pixels")
    return (*IMAGE_DTYPES, *LABEL_DTYPES[1:], torch.bool)


def check_saliency(function: str, argument: str, saliency: Tensor) -> None:
    """Raises unless `saliency` is a batch of maps; their values only with `FASTWARP_CHECKS=1`."""
    check_tensor(function, argument, saliency, "[B, h, w]", floating=True)
    if min(saliency.shape[1:]) < 2:
        raise fail(function, argument, f"of shape {list(saliency.shape)}", "at least 2 x 2 cells")
    check_saliency_values(function, argument, saliency)


def check_saliency_values(function: str, argument: str, values: Tensor) -> None:
    """With `FASTWARP_CHECKS=1`, raises FastwarpError for NaN or negative saliency."""
    if _CHECKS and (torch.isnan(values).any() or (values < 0).any()):
        raise fail(function, argument, "NaN or negative somewhere", "values >= 0")


def extents(
    function: str, argument: str, value: Any, structure: Any, levels: int, batch: int, like: Tensor
) -> Tensor | None:
    """`valid=` of one tensor or one per level -> int64 `[1 or batch, levels, 2]`; None for an empty batch."""
    if value is None:
        return None
    parts = as_list(function, argument, value, structure)
    for part in parts:
        check_tensor(function, argument, part, "[B, 2]", dtypes=(torch.int32, torch.int64))
        if part.shape[1] != 2:
            raise fail(function, argument, f"of shape {list(part.shape)}", "[B, 2], (height, width) of each image")
        check_devices(function, **{argument: part, "images": like})
        check_together(function, batch=batch, **{argument: part})
    if batch == 0:
        return None
    widest = max(part.shape[0] for part in parts)
    return torch.stack([part.long().expand(widest, 2) for part in parts], 1)


def as_list(function: str, argument: str, value: Any, structure: Any) -> list[Any]:
    """Values that follow the structure of the levels: mappings by their keys, sequences in order, or a single one."""
    if isinstance(structure, Tensor):  # asked first, because what follows takes longer
        return [value]
    if isinstance(structure, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(structure):
            got = list(value) if isinstance(value, Mapping) else type(value).__name__
            raise fail(function, argument, got, f"a dict with the keys {list(structure)}")
        return [value[key] for key in structure]
    if isinstance(structure, Sequence):
        if not isinstance(value, Sequence) or len(value) != len(structure):
            got = f"{len(value)} long" if isinstance(value, Sequence) else type(value).__name__
            raise fail(function, argument, got, f"a list or tuple of {len(structure)}, one for each level")
        return list(value)
    return [value]


def rebuild(structure: Any, values: list[Tensor]) -> Any:
    """`values` in a container of the type that `as_list` took apart, and with whatever else it holds."""
    if isinstance(structure, Tensor):
        return values[0]
    kind = type(structure)
    if kind in (list, tuple):
        return kind(values)
    if kind in (dict, OrderedDict):
        return kind(zip(structure, values, strict=True))
    if hasattr(structure, "_fields"):  # a namedtuple
        return kind(*values)
    if isinstance(structure, (MutableMapping, MutableSequence)):
        # A copy, as `default_collate` makes: constructors of subclasses take what they like.
        result = copy.copy(structure)
        keys = list(structure) if isinstance(structure, Mapping) else range(len(values))
        for key, value in zip(keys, values, strict=True):
            result[key] = value
        return result
    if isinstance(structure, Mapping):
        return kind(dict(zip(structure, values, strict=True)))
    return kind(values) if isinstance(structure, Sequence) else values[0]


def is_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether these are numbers on a CPU, which may be looked at, and changed in place: without gradients, and not seen
    by anything that compiles, traces or transforms."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _forward_mode.in_dual_level():  # type: ignore[attr-defined]
        return False
    if torch._C._len_torch_dispatch_stack() > 0:
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return all(type(t) is Tensor and t.device.type == "cpu" and not t.requires_grad and not wrapped(t) for t in tensors)


def check_number(
    function: str, argument: str, value: Any, low: float = -MOST, high: float = MOST, unit: str = ""
) -> float:
    """`value` as a float, if it is a number (NumPy's too) from `low` to `high`; `unit` is " of pixels", say."""
    number: float | None = as_real(value)
    if number is not None and low <= number <= high:
        return number
    expected = f"a number{unit} from {low:g} to {high:g}"  # not before: torch.compile cannot print free numbers
    if number is None:
        raise TypeError(f"{function}: {argument} is {type(value).__name__}, expected {expected}")
    raise fail(function, argument, value, expected)


def check_count(function: str, argument: str, value: Any, low: int, high: float = float("inf")) -> int:
    """`value` as an int, if it is an integer (NumPy's too) from `low` to `high`."""
    number: int | None = as_integer(value)
    if number is not None and low <= number <= high:
        return number
    expected = f"an integer of at least {low}" if high == float("inf") else f"an integer from {low} to {high}"
    if number is None:
        raise TypeError(f"{function}: {argument} is {value!r}, expected {expected}")
    raise fail(function, argument, value, expected)


def check_sides(function: str, argument: str, value: Any) -> tuple[int, int]:
    """`value` as (height, width) of an image in pixels or a map in cells, both from 2 to 2^31 - 1."""
    height, width = check_size(function, argument, value)
    if min(height, width) < 2 or max(height, width) >= 2**31:
        raise fail(function, argument, tuple(value), "a height and a width of at least 2, less than 2^31")
    return height, width


def check_fwhm(function: str, fwhm: float) -> float:
    """`fwhm` as a float, if it is a positive number."""
    return check_number(function, "fwhm", fwhm, LEAST, unit=" of saliency cells")


def check_images(
    function: str, argument: str, images: list[Any], dtypes: tuple[torch.dtype, ...] = IMAGE_DTYPES
) -> None:
    """Raises unless the images, the levels of an argument, are fit for the kernels and belong together."""
    if not images:
        raise fail(function, argument, "empty", "at least one level")
    first = images[0]
    for image in images:
        check_tensor(function, argument, image, "[B, C, H, W]", dtypes=dtypes)
        _, _, height, width = image.shape
        if height == 0 or width == 0:
            raise fail(function, argument, f"of shape {list(image.shape)}", "a height and a width of at least 1")
        if image.dtype != first.dtype:
            raise TypeError(f"{function}: levels are {first.dtype} and {image.dtype}, expected one dtype")
        if image.shape[0] != first.shape[0]:
            raise fail(function, "levels", f"of batch {first.shape[0]} and {image.shape[0]}", "one batch size")
        if image.device != first.device:
            raise fail(function, "levels", f"on {first.device} and {image.device}", "one device")


def level_arguments(
    function: str, features: Any, size: Any, dtypes: tuple[torch.dtype, ...] = IMAGE_DTYPES
) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """The levels, and the target size of each: what `size` says in the structure of `features`, or each map's own."""
    images = as_list(function, "features", features, features)
    check_images(function, "features", images, dtypes)
    if size is None:
        return images, [(image.shape[2], image.shape[3]) for image in images]
    return images, [check_size(function, "size", target) for target in as_list(function, "size", size, features)]


def frame_arguments(
    function: str, frame: Any, size: Any, mean: Any, std: Any, dtype: Any
) -> tuple[Tensor, tuple[int, int], list[float], list[float]]:
    """A camera's frames `[B, H, W, C]`, the target size, and scale and bias of each channel, if they are in order."""
    if isinstance(frame, Tensor) and frame.dim() == 3:
        frame = frame.unsqueeze(0)
    check_tensor(function, "frame", frame, "[B, H, W, C]", dtypes=(torch.uint8,))
    channels = frame.shape[3]
    if 0 in frame.shape[1:]:
        raise fail(function, "frame", f"of shape {list(frame.shape)}", "no empty dimension")
    mean = (0.0,) * channels if mean is None else mean
    std = (1.0,) * channels if std is None else std
    check_statistics(function, channels, mean, std)
    if dtype not in IMAGE_DTYPES[1:]:
        raise TypeError(f"{function}: dtype is {dtype}, expected float16, bfloat16, float32 or float64")
    scale = [1.0 / float(s) for s in std]
    bias = [-float(m) / float(s) for m, s in zip(mean, std, strict=True)]
    return frame, check_size(function, "size", size), scale, bias


def check_statistics(function: str, channels: int, mean: Any, std: Any) -> None:
    """Raises unless mean and std are numbers, one for each channel, and no std is 0."""
    for argument, values, least in (("mean", mean, 0.0), ("std", std, 1e-9)):
        numbers: list[Any] = [as_real(value) for value in values] if isinstance(values, Sequence) else [None]
        if None in numbers:
            raise TypeError(f"{function}: {argument} is {values!r}, expected one number for each channel")
        if len(numbers) != channels:
            raise fail(function, argument, f"{len(values)} long", f"one value for each of {channels} channels")
        # The bounds keep mean / std within float32.
        if not all(abs(number) <= 1e9 for number in numbers):
            raise fail(function, argument, list(values), "numbers from -1e9 to 1e9")
        if not all(abs(number) >= least for number in numbers):
            raise fail(function, argument, list(values), "values other than 0, of at least 1e-9 in size")


def check_memory(function: str, argument: str, value: Any, needed: int, device: torch.device) -> None:
    """Raises FastwarpError where more bytes are `needed` than `device` has, before any are asked for."""
    if torch.compiler.is_compiling() or needed < 2**30:
        return
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows does not say
        memory = 2**42
    if needed > memory:
        got = f"{value}, which takes {needed / 2**30:,.0f} GiB"
        raise fail(function, argument, got, f"no more than the {memory / 2**30:,.0f} GiB of {device}")


def check_indices(function: str, argument: str, index: Tensor, count: int) -> None:
    """Raises FastwarpError for numbers outside 0 .. count - 1; on GPUs, which this waits for, with `FASTWARP_CHECKS=1`
    only."""
    if index.numel() == 0 or torch.compiler.is_compiling() or not (_CHECKS or index.device.type == "cpu"):
        return
    low, high = index.min().item(), index.max().item()
    if low < 0 or high >= count:
        raise fail(function, argument, low if low < 0 else high, f"numbers of images in 0 .. {count - 1}")
