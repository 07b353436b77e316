"""Saliency over time: the fixed map of a data set, the previous frame's detections, and how to train with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastwarp._checks import as_geometry, check_count, check_number, rebuild
from fastwarp._precision import keeping_precision
from fastwarp.errors import check_devices, check_tensor, fail
from fastwarp.functional import lz_knots
from fastwarp.functional.density import Boxes, box_density, box_knots, check_boxes


class FixedSaliency(nn.Module):
    """A map that is the same for all images: the prior of a data set, LZU's fixed saliency.

    The map is a buffer of the state_dict, and stays in float32 when a network is made half precision.

    Args:
        saliency: `[h, w]` or `[1, h, w]`, floating point, finite and not negative. Copied.

    Raises:
        FastwarpError: another shape, fewer than 2 cells in a direction; on a CPU, NaN, infinite or negative values.
        TypeError: not a floating-point tensor.

    Examples:
        >>> import torch
        >>> from fastwarp.saliency import FixedSaliency, box_density
        >>> prior = FixedSaliency(box_density(torch.tensor([[400.0, 300.0, 700.0, 500.0]]), (1200, 1920)))
        >>> prior().shape
        torch.Size([1, 31, 51])
        >>> prior(torch.tensor([False, True])).shape  # the second image was flipped
        torch.Size([2, 31, 51])
    """

    saliency: Tensor

    def __init__(self, saliency: Tensor) -> None:
        super().__init__()
        name = type(self).__name__
        if isinstance(saliency, Tensor) and saliency.dim() == 2:
            saliency = saliency.unsqueeze(0)
        check_tensor(name, "saliency", saliency, "[1, h, w]", floating=True)
        if saliency.shape[0] != 1 or min(saliency.shape[1:]) < 2:
            raise fail(name, "saliency", f"of shape {list(saliency.shape)}", "[1, h, w] of at least 2 x 2 cells")
        wide = as_geometry(saliency.detach())
        if wide.device.type == "cpu" and not ((wide >= 0) & (wide < float("inf"))).all():
            raise fail(name, "saliency", "NaN, infinite or negative in places", "finite values that are not negative")
        self.register_buffer("saliency", wide.clone())

    def forward(self, flipped: bool | Tensor = False) -> Tensor:
        """The map.

        Args:
            flipped: whether the images were flipped horizontally: one bool for all, or `[B]`.

        Returns:
            `[1, h, w]`, or `[B, h, w]` for flips of each image.
        """
        return flip_maps(type(self).__name__, self.saliency, flipped)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        return super()._apply(keeping_precision(fn), recurse)


def flip_maps(function: str, saliency: Tensor, flipped: bool | Tensor) -> Tensor:
    """Maps `[1 or B, h, w]` as images see them that were flipped horizontally or not."""
    if isinstance(flipped, bool):
        return saliency.flip(2) if flipped else saliency
    check_tensor(function, "flipped", flipped, "[B]", dtypes=(torch.bool,))
    check_devices(function, flipped=flipped, saliency=saliency)
    if saliency.shape[0] not in (1, flipped.shape[0]):
        raise fail(function, "flipped", f"of shape {list(flipped.shape)}", f"[{saliency.shape[0]}], one per image")
    return torch.where(flipped[:, None, None], saliency.flip(2), saliency)


class AdaptiveSaliency(nn.Module):
    """Saliency from what was detected in the previous frame of a video, LZU's adaptive saliency.

    Ask for the saliency of a frame, detect, then `update` with the detections. Each stream (video, camera) has a memory
    of its own, which is no part of the state_dict. As in FOVEA (Thavamani et al., ICCV 2021), the map of the boxes D
    and that of the data set P are mixed, `alpha * D + (1 - alpha) * P`, both of sum 1; a stream's first frame, and one
    after a frame without detections, gets P alone. Nothing waits for a GPU.

    Frames may have several sizes: pass them with the boxes, which are then scaled to `image_size`.

    Args:
        image_size: (H, W) in pixels, to which the bandwidth refers.
        shape: (h, w) of the map in cells.
        amplitude: a, see `box_density`; an `nn.Parameter` is learned.
        bandwidth: b, likewise.
        prior: P, `[h, w]` or `[1, h, w]`, of any positive sum. None: uniform.
        alpha: weight of the detections, 0 to 1.
        threshold: detections with lower scores do not count.

    Raises:
        FastwarpError: a prior of another shape, NaN, infinite or negative in places, or without a sum; alpha outside
            [0, 1]. What `box_density` raises, in its place.
        TypeError: a prior that is no floating-point tensor, options that are no numbers.

    Examples:
        >>> import torch, fastwarp
        >>> from fastwarp.saliency import AdaptiveSaliency
        >>> saliency = AdaptiveSaliency((480, 640), threshold=0.3)
        >>> for frame in torch.rand(2, 1, 3, 480, 640):
        ...     warp = fastwarp.SeparableWarp(*saliency.knots())
        ...     small = warp.zoom(frame, (240, 320))
        ...     boxes, scores = torch.tensor([[100.0, 90.0, 140.0, 120.0]]), torch.tensor([0.9])  # from a detector
        ...     saliency.update([boxes], [scores])
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        shape: tuple[int, int] = (31, 51),
        amplitude: float | Tensor = 1.0,
        bandwidth: float | Tensor = 64.0,
        *,
        prior: Tensor | None = None,
        alpha: float = 1.0,
        threshold: float = 0.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.image_size, self.shape = image_size, shape
        self.amplitude, self.bandwidth = amplitude, bandwidth
        self.alpha = check_number(name, "alpha", alpha, 0.0, 1.0)
        self.threshold = check_number(name, "threshold", threshold)
        self.uniform = prior is None
        # Also tells at once what is wrong with the sizes and numbers.
        no_boxes = torch.zeros(0, 4, dtype=torch.float32, device="cpu")
        empty = box_density(no_boxes, image_size, shape, _on_cpu(amplitude), _on_cpu(bandwidth))
        self.prior = FixedSaliency(empty.to(torch.get_default_device()) if prior is None else prior)
        if self.prior.saliency.shape != empty.shape:
            got = list(self.prior.saliency.shape)
            raise fail(name, "prior", f"of shape {got}", f"{list(empty.shape)}, as shape says")
        total = self.prior.saliency.sum()
        if total.device.type == "cpu" and not 0 < total < float("inf"):
            raise fail(name, "prior", f"of sum {total.item()}", "a positive, finite sum")
        self.prior.saliency /= total
        self._seen: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def update(
        self,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor] | None = None,
        streams: Sequence[Hashable] = (0,),
        *,
        image_sizes: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> None:
        """Remembers the detections in the current frame of some streams, instead of those before.

        Args:
            boxes: `[N, 4]` of each stream, in pixels of the frame (not of the zoomed image: see
                `fastwarp.SeparableWarp.unzoom_boxes`). Detached and copied.
            scores: `[N]` of each stream, or None: all count.
            streams: names of the streams.
            image_sizes: (height, width) of the frame of each stream, a list of pairs or `[B, 2]`; None: `image_size`.

        Raises:
            FastwarpError: not one tensor for each stream; wrong shapes; on a CPU, NaN scores, and among the boxes that
                count inverted (x2 < x1), NaN or infinite ones. The streams then keep what they had.
            TypeError: boxes or scores that are no real tensors.
        """
        found = self._counting("AdaptiveSaliency.update", boxes, scores, "stream", len(streams), image_sizes)
        for stream, (some, count) in zip(streams, found, strict=True):
            self._seen[stream] = some.detach().clone(), count

    def _counting(
        self, name: str, boxes: Any, scores: Any, each: str, number: int, image_sizes: Any
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes of each image, scaled to `image_size`, those that count first, and how many do."""
        for argument, values in (("boxes", boxes), ("scores", scores)):
            if values is not None and (isinstance(values, Tensor) or len(values) != number):
                got = "one tensor" if isinstance(values, Tensor) else f"{len(values)} tensors"
                raise fail(name, argument, got, f"a list of {number}, one tensor for each {each}")
        if image_sizes is not None and (len(image_sizes) != number or any(len(size) != 2 for size in image_sizes)):
            raise fail(name, "image_sizes", image_sizes, f"{number} pairs, (height, width) for each {each}")
        result = []
        for i in range(number):
            check_boxes(name, f"boxes[{i}]", boxes[i], "[N, 4]")
            found, count = boxes[i], boxes[i].new_full((), len(boxes[i]), dtype=torch.int64)
            if image_sizes is not None:
                own = torch.as_tensor(image_sizes[i], dtype=torch.float64, device=found.device)
                scale = torch.tensor(self.image_size, dtype=torch.float64, device=found.device) / own
                found = as_geometry(found)
                found = found * scale.flip(0).repeat(2).to(found.dtype)
            if scores is not None:
                counts = self._counts(name, i, found, scores[i])
                # Those that count to the front: a selection would have a shape that depends on data.
                found, count = found[torch.argsort(counts.to(torch.uint8), descending=True, stable=True)], counts.sum()
            _check_found(name, f"boxes[{i}]", found, count)
            result.append((found, count))
        return result

    def _counts(self, name: str, i: int, found: Tensor, scores: Any) -> Tensor:
        """Which of the boxes count, `[N]`."""
        check_tensor(name, f"scores[{i}]", scores, "[N]")
        if scores.shape[0] != found.shape[0]:
            raise fail(name, f"scores[{i}]", f"of shape {list(scores.shape)}", f"[{found.shape[0]}]")
        check_devices(name, boxes=found, scores=scores)
        if scores.device.type == "cpu" and not torch.compiler.is_compiling() and scores.isnan().any():
            raise fail(name, f"scores[{i}]", "NaN in places", "numbers")
        return scores.detach() >= self.threshold

    def reset(self, stream: Hashable | None = None) -> None:
        """Forgets a stream, at a cut or the end of a video; None: all of them."""
        if stream is None:
            self._seen.clear()
        else:
            self._seen.pop(stream, None)

    def forward(self, streams: Sequence[Hashable] = (0,), flipped: bool | Tensor = False) -> Tensor:
        """Saliency of the next frame of some streams.

        Args:
            streams: names of the streams.
            flipped: whether the frames were flipped horizontally, which the prior follows; detections are those in
                flipped frames. See `FixedSaliency`.

        Returns:
            `[B, h, w]`, each map of sum 1.
        """
        return self._map(*_padded(self._remembered(streams)), flipped)

    def _map(self, boxes: Tensor, counts: Tensor, flipped: bool | Tensor) -> Tensor:
        maps = box_density(boxes, self.image_size, self.shape, self.amplitude, self.bandwidth, counts=counts)
        prior = flip_maps("AdaptiveSaliency", self.prior().expand(len(boxes), -1, -1), flipped)
        return torch.where(counts[:, None, None] > 0, self.alpha * maps + (1 - self.alpha) * prior, prior)

    def knots(
        self,
        streams: Sequence[Hashable] = (0,),
        fwhm: float = 13.0,
        anti_crop: bool = True,
        flipped: bool | Tensor = False,
    ) -> tuple[Tensor, Tensor]:
        """Knots of the warps of the next frame, for `fastwarp.SeparableWarp`; without a map where none is mixed in.

        Args:
            streams: names of the streams.
            fwhm: see `fastwarp.functional.lz_knots`.
            anti_crop: likewise.
            flipped: see `forward`.
        """
        return self._knots(self._remembered(streams), fwhm, anti_crop, flipped)

    def knots_of(
        self,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor] | None = None,
        fwhm: float = 13.0,
        anti_crop: bool = True,
        flipped: bool | Tensor = False,
        *,
        image_sizes: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Knots of the warps of these boxes, of which nothing is remembered: for training on single images.

        Args:
            boxes: `[N, 4]` of each image, in its pixels. Differentiable.
            scores: `[N]` of each image, or None: all boxes count.
            fwhm: see `fastwarp.functional.lz_knots`.
            anti_crop: likewise.
            flipped: see `forward`.
            image_sizes: (height, width) of each image, a list of pairs or `[B, 2]`; None: `image_size`.

        Returns:
            `knots_y [B, h]` and `knots_x [B, w]`, for `fastwarp.SeparableWarp`.

        Raises:
            FastwarpError: see `update`; no images.
            TypeError: see `update`.
        """
        name = "AdaptiveSaliency.knots_of"
        if len(boxes) == 0:
            raise fail(name, "boxes", "an empty list", "one tensor [N, 4] for each image")
        found = self._counting(name, boxes, scores, "image", len(boxes), image_sizes)
        return self._knots(found, fwhm, anti_crop, flipped)

    def maps_of(
        self,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor] | None = None,
        flipped: bool | Tensor = False,
        *,
        image_sizes: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> Tensor:
        """Saliency of these boxes, of which nothing is remembered: `[B, h, w]`, each map of sum 1.

        Its arguments and errors are those of `knots_of`.
        """
        found = self._counting("AdaptiveSaliency.maps_of", boxes, scores, "image", len(boxes), image_sizes)
        return self._map(*_padded(found), flipped)

    def _knots(
        self, found: list[tuple[Tensor, Tensor]], fwhm: float, anti_crop: bool, flipped: bool | Tensor
    ) -> tuple[Tensor, Tensor]:
        boxes, counts = _padded(found)
        if not (self.uniform and self.alpha == 1):
            return lz_knots(self._map(boxes, counts, flipped), fwhm, anti_crop)
        numbers = (self.image_size, self.shape, self.amplitude, self.bandwidth)
        return box_knots(boxes, *numbers, fwhm, anti_crop, counts=counts)

    def _remembered(self, streams: Sequence[Hashable]) -> list[tuple[Tensor, Tensor]]:
        nothing = self.prior.saliency.new_zeros(0, 4), self.prior.saliency.new_zeros((), dtype=torch.int64)
        return [self._seen.get(stream, nothing) for stream in streams]


def _padded(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    boxes = torch.nn.utils.rnn.pad_sequence([some.float() for some, _ in found], batch_first=True)
    return boxes, torch.stack([count for _, count in found])


def _check_found(function: str, argument: str, boxes: Tensor, count: Tensor) -> None:
    """Raises for what `box_density` would refuse with the next frame; on a CPU only, as looking waits for a GPU."""
    if boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return
    boxes = boxes[: int(count)].float()
    if not boxes.isfinite().all():
        raise fail(function, argument, "NaN or infinite in places", "finite coordinates in pixels")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise fail(function, argument, "inverted in places", "x1 <= x2 and y1 <= y2")


def _on_cpu(number: float | Tensor) -> float | Tensor:
    return number.detach().cpu() if isinstance(number, Tensor) else number


def jitter_boxes(
    boxes: Boxes, sigma_x: float = 7.5, sigma_y: float = 3.0, *, generator: torch.Generator | None = None
) -> Any:
    """Moves boxes at random: what an object may have moved since the previous frame, for training on single frames.

    Each box moves as a whole, by a normally distributed distance (LZU appendix A.6, for Argoverse-HD at 1200x1920).

    Args:
        boxes: `[..., 4]` (x1, y1, x2, y2) in pixels, or a list of such tensors. Not modified.
        sigma_x: standard deviation in pixels, horizontally.
        sigma_y: vertically.
        generator: of the random numbers; on the boxes' device.

    Returns:
        As `boxes`; integers become float32.

    Raises:
        FastwarpError: another last dimension than 4, a sigma that is negative or not finite.
        TypeError: not tensors; a sigma that is no number.

    Examples:
        >>> import torch
        >>> from fastwarp.saliency import jitter_boxes
        >>> moved = jitter_boxes(torch.tensor([[10.0, 20.0, 30.0, 60.0]]))
        >>> (moved[:, 2:] - moved[:, :2]).round()
        tensor([[20., 40.]])
    """
    sigma_x = check_number("jitter_boxes", "sigma_x", sigma_x, 0.0, unit=" of pixels")
    sigma_y = check_number("jitter_boxes", "sigma_y", sigma_y, 0.0, unit=" of pixels")
    if not isinstance(boxes, Tensor):
        if not isinstance(boxes, (list, tuple)):
            raise TypeError(f"jitter_boxes: boxes is {type(boxes).__name__}, expected a tensor [..., 4] or a list")
        return rebuild(boxes, [jitter_boxes(one, sigma_x, sigma_y, generator=generator) for one in boxes])
    if boxes.dim() == 0 or boxes.shape[-1] != 4:
        raise fail("jitter_boxes", "boxes", f"of shape {list(boxes.shape)}", "[..., 4]")
    boxes = boxes if boxes.dtype.is_floating_point else boxes.float()
    by = torch.randn(*boxes.shape[:-1], 2, dtype=boxes.dtype, device=boxes.device, generator=generator)
    by = by * boxes.new_tensor([sigma_x, sigma_y])
    return boxes + torch.cat([by, by], -1)


@dataclasses.dataclass(frozen=True)
class CascadeSchedule:
    """What stands in for the previous frame's detections while training on single frames: LZU's cascaded saliency.

    In the first epochs that is the jittered ground truth, in the last ones the jittered detections of the network
    itself in the current frame, whose errors are those it will see (LZU section 4.1: 2 epochs, then 1).

    Args:
        epochs: of the training.
        last: how many of them, at the end, take detections.

    Raises:
        FastwarpError: not `0 <= last <= epochs`; when asked for an epoch that is not one of them.

    Examples:
        >>> from fastwarp.saliency import CascadeSchedule
        >>> schedule = CascadeSchedule(epochs=3)
        >>> [schedule(epoch) for epoch in range(3)]
        ['truth', 'truth', 'detections']
    """

    epochs: int
    last: int = 1

    def __post_init__(self) -> None:
        check_count("CascadeSchedule", "epochs", self.epochs, 0)
        check_count("CascadeSchedule", "last", self.last, 0, self.epochs)

    def __call__(self, epoch: int) -> Literal["truth", "detections"]:
        """What to jitter in an epoch, counted from 0."""
        check_count("CascadeSchedule", "epoch", epoch, 0, self.epochs - 1)
        return "detections" if epoch >= self.epochs - self.last else "truth"
