"""DownsizeNet as a module: parameters, settings and files around `fastwarp.functional.downsize`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastwarp._checks import check_count, check_option
from fastwarp._files import size_of, write_whole
from fastwarp.errors import FastwarpError, as_real, check_size, check_tensor, fail
from fastwarp.functional import downsize, downsize_boxes
from fastwarp.functional._downsize_called import downsize_called, is_plain
from fastwarp.functional._downsize_checks import LAYERS, check_encoded, check_encoding, statistics
from fastwarp.functional._downsize_tables import NORMALISE, Encoding, Footprint, Normalise, Taps, check_options
from fastwarp.functional.separable import Size


class DownsizeNet(nn.Module):
    """Resizes images with interpolation weights that a small network infers from texture and distance (DownsizeNet
    section 3.1), trained by the loss of the task that the small image goes to.

    The network starts as the interpolation that `taps` names, so that putting it in front of a trained detector changes
    nothing until it learns. See `fastwarp.functional.downsize` for what it computes, docs/downsize.md for how to attach
    and train it.

    Args:
        size: (height, width) of the result.
        scale_factor: or the result as a share of the image, a number or one for each axis, rounded down as by
            `F.interpolate`. With neither, each call says the size.
        in_channels: of the images; feature maps have more than 3.
        channels: of each convolution.
        layers: number of 3x3 convolutions, 0 to 5; 0 leaves the distances alone. The paper uses 2 to 4, mostly 3.
        taps: pixels that a target is a mean of, and their distances: "bilinear", "bicubic" or "area".
        footprint: taps of an area, a number or (rows, columns). None: enough for the scale factor; with a size it has
            to be given, `ceil(ratio) + 1` is enough. `torch.export` of free image sizes makes of it a condition on the
            sizes: use `Dim.AUTO`, or other dimensions with `prefer_deferred_runtime_asserts_over_guards=True`.
        encoding: of the distances; "exact", "raw", None (texture alone) or a function of dx and dy, which may be a
            module.
        normalise: "sigmoid", "softmax" or "signed".
        align_corners: as of `F.interpolate`; not with areas.
        mean: of each channel; normalises what the convolutions see. Taps and result stay as they are.
        std: likewise.
        texture_gradient: False saves the gradient to the image through the convolutions.

    `convs` are `nn.Conv2d` with torch's default initialisation. `fuse` is the 1x1 convolution of [features; distances]:
    an identity over the distances and 0 elsewhere with encoding "exact", zeros without distances (all taps weigh the
    same then), torch's default with "raw", as in the paper, or a function. With encoding "exact" the start is bilinear
    or area interpolation to 1e-5 of the image's range (plus 1e-6 for each tap that an area does not cover), and bicubic
    with normalise="signed"; the other normalisations have no negative weights.

    One fused pass reads the weights of the convolutions. Where one of these does more than its weights say (hooks, as
    of `torch.nn.utils.prune`, `weight_norm` and `spectral_norm`, of FSDP or of counters of FLOPs; fake quantization; a
    module in its place, such as an adapter), all are called instead, in plain torch: slower, with more memory, the same
    result. Modules that were converted for quantized tensors are refused.

    Parameters may have any floating dtype; geometry and weights are computed in float32 at least, under `.half()` and
    autocast too.

    Raises:
        FastwarpError: settings that contradict each other or are out of range; on a call, see `functional.downsize`.
        TypeError: wrong types.

    Examples:
        >>> import torch
        >>> net = DownsizeNet(scale_factor=0.5)
        >>> image = torch.rand(2, 3, 12, 16)
        >>> small = net(image)
        >>> bilinear = torch.nn.functional.interpolate(image, scale_factor=0.5, mode="bilinear")
        >>> torch.allclose(small, bilinear, atol=1e-5)
        True
    """

    def __init__(
        self,
        size: Size | None = None,
        *,
        scale_factor: float | Sequence[float] | None = None,
        in_channels: int = 3,
        channels: int = 16,
        layers: int = 3,
        taps: Taps = "bilinear",
        footprint: Footprint = None,
        encoding: Encoding = "exact",
        normalise: Normalise = "sigmoid",
        align_corners: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        texture_gradient: bool = True,
    ) -> None:
        super().__init__()
        name = "DownsizeNet"
        if size is not None and scale_factor is not None:
            raise FastwarpError(f"{name}: got a size and a scale_factor, expected at most one of them")
        self.size = None if size is None else tuple(check_size(name, "size", size))
        self.scale_factor = _scale_factor(scale_factor)
        in_channels = check_count(name, "in_channels", in_channels, 1)
        channels = check_count(name, "channels", channels, 1)
        layers = check_count(name, "layers", layers, 0, LAYERS)
        check_option(name, "normalise", normalise, NORMALISE)
        check_encoding(name, encoding)
        if layers == 0 and encoding is None:
            raise FastwarpError(f"{name}: got layers=0 and encoding=None, expected convolutions, distances or both")
        pair = check_options(name, taps, footprint, align_corners)
        self.in_channels, self.channels, self.layers = in_channels, channels, layers
        self.taps, self.normalise, self.align_corners = taps, normalise, bool(align_corners)
        self.footprint = self._footprint(pair) if taps == "area" else None
        statistics(name, in_channels, mean, std)
        # Settings and no buffers, which .to(torch.bfloat16) would round.
        self.mean = None if mean is None else [float(value) for value in mean]
        self.std = None if std is None else [float(value) for value in std]
        self.texture_gradient = bool(texture_gradient)
        self.encoding = encoding

        widths = [in_channels, *[channels] * layers]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        rows, columns = self.footprint or ((4, 4) if taps == "bicubic" else (2, 2))
        features = channels if layers else 0
        self.fuse = nn.Conv2d(features + self._distances(rows * columns), rows * columns, 1)
        if encoding is None or encoding == "exact":
            nn.init.zeros_(self.fuse.weight)
            nn.init.zeros_(self.fuse.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                self.fuse.weight[:, features:, 0, 0].fill_diagonal_(1)

    def _footprint(self, pair: tuple[int | None, int | None]) -> tuple[int, int]:
        """Taps of an area, as many as images need whose results are not tiny."""
        found = []
        for n, factor in zip(pair, self.scale_factor or (None, None), strict=True):
            if n is None and factor is None:
                raise fail(
                    "DownsizeNet", "footprint", None, "a number of taps, as areas without a scale_factor need one"
                )
            # D pixels give floor(D / ratio) targets, so D / d exceeds the ratio: from 3 on that takes one tap more.
            ratio = 1 / (factor or 1)
            found.append(n or (math.ceil(ratio) + 1 if ratio <= 2 else math.floor(ratio) + 2))
        return found[0], found[1]

    def _distances(self, taps: int) -> int:
        """Columns of the 1x1 convolution that the encoded distances take."""
        if self.encoding is None:
            return 0
        if isinstance(self.encoding, str):
            return taps
        half = torch.full((1, 1), 0.5, dtype=torch.float32, device="cpu")
        with torch.no_grad():
            return check_encoded("DownsizeNet", self.encoding(half, half), (1, 1)).shape[0]

    def _unusual(self) -> str | None:
        """The name of a convolution that does more than its weights say, if there is one."""
        named = [*((f"convs.{l}", conv, 1) for l, conv in enumerate(self.convs)), ("fuse", self.fuse, 0)]
        unusual = [name for name, conv, padding in named if not is_plain(conv, padding)]
        return unusual[0] if unusual else None  # torch 2.6 does not compile next() with a default

    def _parameters_of(self) -> dict[str, Any]:
        return {
            "weights": [conv.weight for conv in self.convs],
            "biases": [c.weight.new_zeros(len(c.weight)) if c.bias is None else c.bias for c in self.convs],
            "fuse_weight": self.fuse.weight,
            "fuse_bias": self.fuse.bias,
        }

    def _settings_of(self) -> dict[str, Any]:
        return {
            "encoding": self.encoding,
            "normalise": self.normalise,
            "mean": self.mean,
            "std": self.std,
            "texture_gradient": self.texture_gradient,
        }

    def _check(self, argument: str, image: Any) -> None:
        check_tensor("DownsizeNet", argument, image, "[B, C, H, W]")
        if image.shape[1] != self.in_channels:
            raise fail("DownsizeNet", argument, f"of shape {list(image.shape)}", f"{self.in_channels} channels")

    def forward(self, image: Tensor, size: Size | None = None) -> Tensor:
        """Resizes images.

        Args:
            image: `[B, C, H, W]`, fp16, bf16, fp32 or fp64.
            size: (height, width) for this call, in place of the module's own size or scale factor.

        Returns:
            `[B, C, *size]` in the image's dtype and memory format.
        """
        self._check("image", image)
        if size is None:
            size = self._target(image)
        options = self._settings_of() | {
            "taps": self.taps,
            "footprint": self.footprint,
            "align_corners": self.align_corners,
        }
        if self._unusual() is not None:
            return downsize_called(image, list(self.convs), self.fuse, size, **options)
        return downsize(image, size=size, **self._parameters_of(), **options)

    def _target(self, image: Tensor) -> Size:
        if self.size is not None:
            return self.size
        if self.scale_factor is None:
            raise FastwarpError("DownsizeNet: made without a size or scale_factor, expected a size with each call")
        size = [torch.sym_int(D * factor) for D, factor in zip(image.shape[2:], self.scale_factor, strict=True)]
        if min(size) < 1:
            expected = f"at least one pixel left of {list(image.shape[2:])}"
            raise fail("DownsizeNet", "scale_factor", self.scale_factor, expected)
        return size

    def pool_boxes(
        self, features: Tensor, boxes: Tensor | Sequence[Tensor], size: Size, *, spatial_scale: float = 1.0
    ) -> Tensor:
        """Pools the features in boxes with this network's weights: see `fastwarp.functional.downsize_boxes`.

        Args:
            features: `[B, C, H, W]`.
            boxes: a list of `[N_i, 4]`, one for each image, or `[N, 5]` with the number of the image in front.
            size: (height, width) of each result.
            spatial_scale: pixels of the map per pixel that the boxes count in.

        Returns:
            `[N, C, *size]`.

        Raises:
            FastwarpError: a network whose taps are not bilinear, or whose convolutions have hooks or were replaced.
        """
        if self.taps != "bilinear":
            raise fail("DownsizeNet", "taps", repr(self.taps), "'bilinear' to pool boxes")
        self._check("features", features)
        unusual = self._unusual()
        if unusual is not None:
            expected = "one without hooks and of torch.nn.Conv2d, as boxes are pooled by weights alone"
            raise fail("DownsizeNet.pool_boxes", unusual, "a module that does more than its weights say", expected)
        options = self._parameters_of() | self._settings_of()
        return downsize_boxes(features, boxes, size=size, spatial_scale=spatial_scale, **options)

    def param_groups(self, lr: float, scale: float = 0.1, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """The trainable parameters as groups of an optimiser, which learn more slowly than the task's network.

        Weight decay would draw the identity of the start towards equal weights of all taps: none by default.

        Args:
            lr: learning rate of the task's network.
            scale: of it, for these parameters.
            weight_decay: for these parameters.

        Examples:
            >>> net, task = DownsizeNet((8, 8)), torch.nn.Conv2d(3, 2, 1)
            >>> groups = [{"params": task.parameters()}, *net.param_groups(0.01)]
            >>> [group["lr"] for group in torch.optim.SGD(groups, lr=0.01, weight_decay=1e-4).param_groups]
            [0.01, 0.001]
        """
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": parameters, "lr": lr * scale, "weight_decay": weight_decay}]

    def freeze(self) -> DownsizeNet:
        """Keeps the parameters as they are; images still get gradients. `net.requires_grad_().train()` undoes it."""
        return self.requires_grad_(False).eval()

    def save(self, path: str | Path) -> None:
        """Writes parameters and settings, whole or not at all: weights trained on one task serve another (DownsizeNet
        section 5.3).

        Args:
            path: ends in .safetensors. The settings are its metadata, as JSON under the key "fastwarp".

        Raises:
            FastwarpError: another ending, a file that cannot be written, an encoding that is a function.
        """
        path = _path(path)
        from safetensors.torch import save

        if not (self.encoding is None or isinstance(self.encoding, str)):
            raise fail("DownsizeNet.save", "encoding", "a function, which no file holds", "'exact', 'raw' or None")
        settings = {"kind": "DownsizeNet", **{name: getattr(self, name) for name in SETTINGS}}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_whole({path: save(tensors, {"fastwarp": json.dumps(settings)})})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        size: Size | None = None,
        scale_factor: float | Sequence[float] | None = None,
    ) -> DownsizeNet:
        """Reads what `save` wrote, on the CPU. Nothing in a file is ever executed.

        Args:
            path: ends in .safetensors.
            size: in place of the file's size or scale factor.
            scale_factor: likewise.

        Raises:
            FastwarpError: a file that cannot be read, or is no DownsizeNet; a size and a scale factor.

        Examples:
            >>> import os, tempfile
            >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
            >>> DownsizeNet((160, 160), layers=2).save(path)
            >>> net = DownsizeNet.load(path, size=(100, 100)).freeze()
        """
        path = _path(path)
        from safetensors import SafetensorError
        from safetensors.torch import load

        size_of(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FastwarpError(f"cannot read {path}: {error.strerror or error}") from None
        try:
            tensors = load(content)
            # The header once more, as `load` does not hand out the metadata: its length in 8 bytes, then JSON.
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            settings = json.loads(header["__metadata__"]["fastwarp"])
            if settings.pop("kind") != "DownsizeNet":
                raise FastwarpError("it holds something else")
            # Sizes of a broken file take no memory, and no random numbers are drawn.
            with torch.device("meta"):
                net = cls(**settings)
            net.load_state_dict(tensors, assign=True)
        except KeyError as error:
            raise FastwarpError(f"{path} is not a DownsizeNet: it has no {error}") from None
        except (SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise FastwarpError(f"{path} is not a DownsizeNet: {str(error).splitlines()[-1].strip()}") from None
        if size is not None and scale_factor is not None:
            raise FastwarpError("DownsizeNet.load: got a size and a scale_factor, expected at most one of them")
        if size is not None or scale_factor is not None:
            net.size = None if size is None else check_size("DownsizeNet.load", "size", size)
            net.scale_factor = _scale_factor(scale_factor)
        return net

    def extra_repr(self) -> str:
        """What print() shows."""
        names = ("size", "scale_factor", "taps", "footprint", "normalise", "align_corners", "mean", "std")
        shown = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) not in (None, False)]
        encoding = self.encoding if self.encoding is None or isinstance(self.encoding, str) else "..."
        return ", ".join([*shown, f"encoding={encoding!r}"])


SETTINGS = (
    "size",
    "scale_factor",
    "in_channels",
    "channels",
    "layers",
    "taps",
    "footprint",
    "encoding",
    "normalise",
    "align_corners",
    "mean",
    "std",
    "texture_gradient",
)
"""What a network is made of, beside its parameters."""


def _scale_factor(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    pair = [as_real(factor) for factor in (value if isinstance(value, (tuple, list)) else (value, value))]
    if len(pair) != 2 or None in pair:
        raise TypeError(f"DownsizeNet: scale_factor is {value!r}, expected a number or one for each axis")
    if not all(0 < factor < float("inf") for factor in pair):
        raise fail("DownsizeNet", "scale_factor", value, "positive, finite numbers")
    return pair[0], pair[1]


def _path(path: str | Path) -> Path:
    """`path`, if it is that of a file to keep a network in."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise FastwarpError(f"{path} does not end in .safetensors")
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise FastwarpError("files of DownsizeNet need safetensors: pip install safetensors") from error
    return path
