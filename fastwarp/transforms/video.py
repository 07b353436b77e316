"""Videos: one warp or one a frame, warps that do not tremble, and how much they do."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from fastwarp._checks import check_number
from fastwarp.errors import check_size, check_tensor, fail
from fastwarp.warp import MeshWarp, SeparableWarp

W = TypeVar("W", SeparableWarp, MeshWarp)

POINTS = 32
"""Rows and columns of places in the source whose movement is jitter."""


def zoom_video(warp: SeparableWarp | MeshWarp, video: Tensor, size: Any, **options: Any) -> Tensor:
    """Zooms the frames of a video.

    Args:
        warp: one warp; one for each clip (`[B, T, ...]`), or one for each frame, clip by clip.
        video: `[T, C, H, W]` or `[B, T, C, H, W]`, any dtype that `warp.zoom` takes.
        size: (height, width) of the result.
        options: of `warp.zoom`: `antialias`, `mode`, and `valid`, `source_valid` of all frames.

    Returns:
        `[T, C, *size]` or `[B, T, C, *size]`, as `warp.zoom` of the frames.

    Raises:
        FastwarpError: wrong rank, another number of warps; see `warp.zoom`.
        TypeError: not a tensor; see `warp.zoom`.

    Examples:
        >>> import torch, fastwarp
        >>> warp = fastwarp.SeparableWarp.from_saliency(torch.rand(8, 31, 51))
        >>> fastwarp.transforms.zoom_video(warp, torch.rand(2, 4, 3, 90, 160), (45, 80)).shape
        torch.Size([2, 4, 3, 45, 80])
    """
    frames, clips = _frames("zoom_video", video)
    zoomed = _a_frame("zoom_video", warp, clips).zoom(frames, size, **options)
    return zoomed.unflatten(0, clips)


def unzoom_video(warp: SeparableWarp | MeshWarp, video: Tensor, size: Any = None, **options: Any) -> Tensor:
    """Brings the zoomed frames of a video back to the source's geometry.

    Args:
        warp: see `zoom_video`.
        video: `[T, C, H, W]` or `[B, T, C, H, W]`.
        size: (height, width) of the result; None: that of the video.
        options: of `warp.unzoom`.

    Returns:
        `[T, C, *size]` or `[B, T, C, *size]`.

    Raises:
        FastwarpError: wrong rank, another number of warps; see `warp.unzoom`.
        TypeError: not a tensor; see `warp.unzoom`.
    """
    frames, clips = _frames("unzoom_video", video)
    return _a_frame("unzoom_video", warp, clips).unzoom(frames, size, **options).unflatten(0, clips)


def _frames(function: str, video: Any) -> tuple[Tensor, tuple[int, ...]]:
    """`[B * T, C, H, W]` and the dimensions before C."""
    if not isinstance(video, Tensor) or video.dim() != 4:
        check_tensor(function, "video", video, "[B, T, C, H, W]")
    return video.flatten(0, -4), tuple(video.shape[:-3])


def _a_frame(function: str, warp: Any, clips: tuple[int, ...]) -> Any:
    """A warp for each frame, or one for all."""
    if not isinstance(warp, (SeparableWarp, MeshWarp)):
        raise TypeError(f"{function}: warp is {type(warp).__name__}, expected SeparableWarp or MeshWarp")
    frames = clips[0] * (clips[1] if len(clips) == 2 else 1)
    if len(warp) in (1, frames):
        return warp
    if len(clips) == 2 and len(warp) == clips[0]:
        return warp[torch.arange(clips[0]).repeat_interleave(clips[1])]
    counts = {1, frames} | set(clips[:-1])
    raise fail(function, "warp", f"a batch of {len(warp)}", " or ".join(map(str, sorted(counts))))


class WarpFilter:
    """Keeps the warps of a stream from trembling: an exponential mean with hysteresis.

    Detections jump by some pixels from frame to frame, and so would the zoomed image. The filtered warp rests until the
    warp that is asked for has moved by more than `start` pixels anywhere; then it follows, `alpha` of the way with each
    frame, until it is within `stop` pixels. Means of separable warps are warps; so are those of meshes without folds
    that are near each other.

    Args:
        source_size: (height, width) of the source, in whose pixels `start` and `stop` are.
        alpha: share of the new warp in the mean, in (0, 1]; 1 jumps.
        start: distance from which on the filter follows.
        stop: distance at which it rests again, at most `start`; 0 for both: an exponential mean alone.

    Raises:
        FastwarpError: a number out of range; in use: a warp of another kind or size than the first.
        TypeError: not numbers, not a warp.

    Examples:
        >>> import torch
        >>> from fastwarp import SeparableWarp
        >>> smooth = WarpFilter((101, 101), alpha=0.5, start=4.0, stop=1.0)
        >>> for middle in (0.5, 0.53, 0.7, 0.7):  # rests at 50 px, then goes half of the way to 70 px
        ...     knots = torch.tensor([[0.0, middle, 1.0]])
        ...     print(round(100 * smooth(SeparableWarp(knots, knots)).knots_x[0, 1].item(), 2))
        50.0
        50.0
        60.0
        65.0
    """

    def __init__(self, source_size: Any, alpha: float = 0.3, start: float = 8.0, stop: float = 2.0) -> None:
        self.source_size = check_size("WarpFilter", "source_size", source_size)
        self.alpha = check_number("WarpFilter", "alpha", alpha, 1e-6, 1.0)
        self.start = check_number("WarpFilter", "start", start, 0.0, unit=" of pixels")
        self.stop = check_number("WarpFilter", "stop", stop, 0.0, self.start, unit=" of pixels")
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next warp is taken as it is."""
        self._warp: Any = None
        self._follows: Any = None

    @torch.no_grad()
    def __call__(self, warp: W) -> W:
        """The filtered warp of the next frame; each of a batch is a stream of its own. Without gradients."""
        if not isinstance(warp, (SeparableWarp, MeshWarp)):
            raise TypeError(f"WarpFilter: warp is {type(warp).__name__}, expected SeparableWarp or MeshWarp")
        if self._warp is None:
            self._warp, self._follows = (
                warp.detach(),
                torch.zeros(len(warp), dtype=torch.bool, device=_of(warp)[0].device),
            )
            return self._warp
        new, old = _of(warp), _of(self._warp)
        if type(warp) is not type(self._warp) or [n.shape for n in new] != [o.shape for o in old]:
            raise fail("WarpFilter", "warp", warp, f"one like the first: {self._warp}")
        scale = [self.source_size[0] - 1, self.source_size[1] - 1]
        if isinstance(warp, MeshWarp):
            sides = new[0].new_tensor(scale[::-1])
            far = ((new[0] - old[0]) * sides).norm(dim=-1).flatten(1).amax(1)
        else:
            moved = [(n - o).abs().amax(1) * side for n, o, side in zip(new, old, scale, strict=True)]
            far = torch.maximum(*moved)
        self._follows = torch.where(self._follows, far > self.stop, far > self.start)
        share = torch.where(self._follows, self.alpha, 0.0)
        mixed = [o + share.to(o).view(-1, *[1] * (o.dim() - 1)) * (n - o) for n, o in zip(new, old, strict=True)]
        self._warp = MeshWarp(mixed[0], warp.tile) if isinstance(warp, MeshWarp) else SeparableWarp(mixed[0], mixed[1])
        return self._warp


def _of(warp: SeparableWarp | MeshWarp) -> list[Tensor]:
    """The tensors of a warp."""
    return [warp.mesh] if isinstance(warp, MeshWarp) else [warp.knots_y, warp.knots_x]


def warp_jitter(warps: SeparableWarp | MeshWarp, source_size: Any, size: Any) -> Tensor:
    """How far the warps of a stream move a picture that stands still, in pixels a frame.

    The root of the mean square, over 32 x 32 places of the source, of the distance in the zoomed image between where
    two successive warps show a place. Places that one of the two does not show are left out.

    Args:
        warps: of successive frames, a batch of T.
        source_size: (height, width) of the source.
        size: (height, width) of the zoomed image, in whose pixels the result is.

    Returns:
        `[T - 1]`, differentiable; its mean is the jitter of the stream. Empty for fewer than two warps.

    Raises:
        FastwarpError: sizes under 1.
        TypeError: not a warp, not sizes.

    Examples:
        >>> import torch
        >>> from fastwarp import SeparableWarp
        >>> still = SeparableWarp.identity(3)
        >>> warp_jitter(still, (100, 100), (50, 50))
        tensor([0., 0.])
    """
    if not isinstance(warps, (SeparableWarp, MeshWarp)):
        raise TypeError(f"warp_jitter: warps is {type(warps).__name__}, expected SeparableWarp or MeshWarp")
    height, width = check_size("warp_jitter", "source_size", source_size)
    check_size("warp_jitter", "size", size)
    like = _of(warps)[0]
    share = (torch.arange(POINTS, dtype=like.dtype, device=like.device) + 0.5) / POINTS
    places = torch.stack(torch.meshgrid(share * width, share * height, indexing="xy"), -1).flatten(0, 1)
    places = places.expand(len(warps), -1, -1)
    zoomed = warps.zoom_points(places, source_size, size)
    shown = warps.visible_points(places, source_size, size)
    both = shown[1:] & shown[:-1]
    moved = torch.where(both, zoomed.diff(dim=0).square().sum(-1), 0.0)
    mean = moved.sum(1) / both.sum(1).clamp(min=1)
    still = mean == 0
    return torch.where(still, 0.0, torch.where(still, 1.0, mean).sqrt())
