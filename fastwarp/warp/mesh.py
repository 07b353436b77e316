"""Warps that need not be separable."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data._utils.collate import default_collate_fn_map

from fastwarp import functional as F
from fastwarp._checks import check_mesh, check_option
from fastwarp.errors import as_integer, check_devices, check_size, fail
from fastwarp.functional.label import Reduce
from fastwarp.functional.mesh import TILES, Tile, windows_of
from fastwarp.functional.mesh_geometry import map_points
from fastwarp.functional.separable import Levels, Mode, Size
from fastwarp.warp._points import Points
from fastwarp.warp.separable import SeparableWarp


class MeshWarp(Points):
    """A batch of warps given by quad meshes, LZU eq. 1-2 and appendix A: what need not act on rows and columns alone.

    T~ maps positions of the zoomed image to positions of the source, in [0, 1] with align_corners=True. It takes each
    tile of a uniform grid to a quad of the mesh, and its inverse is exact: unzoom undoes zoom. Its methods and their
    arguments are those of `fastwarp.SeparableWarp`. Frozen; a pytree (torch.compile, vmap, DDP's inputs); a batch of 1
    is shared by all images.

    Args:
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64, h, w >= 2: T at Grid(h) x Grid(w). Any quads: rotated,
            mirrored, collapsed. Where a mesh folds over itself the first tile in row-major order counts. A NaN in any
            vertex makes the whole image NaN; tiles with an infinite vertex cover nothing.
        tile: `"bilinear"` (LZU A.1): T~ is continuous. `"homography"`: straight lines inside a tile stay straight, but
            two tiles divide their common edge differently unless it is parallel to the opposite edges, so T~ jumps
            along edges; quads that are not convex have no homography and are bilinear.

    Raises:
        FastwarpError: wrong rank or shape, an unknown tile.
        TypeError: not a tensor of one of the two dtypes.

    Examples:
        >>> import torch
        >>> saliency = torch.zeros(1, 31, 51)
        >>> saliency[:, 12:18, 20:30] = 1  # look here
        >>> warp = MeshWarp.from_saliency(saliency)
        >>> image = torch.rand(1, 3, 240, 320)
        >>> small = warp.zoom(image, (120, 160))
        >>> pyramid = [torch.rand(1, 8, 15, 20), torch.rand(1, 8, 8, 10)]  # a network's, of `small`
        >>> [tuple(level.shape) for level in warp.unzoom(pyramid)]
        [(1, 8, 15, 20), (1, 8, 8, 10)]
    """

    _straight = False

    def __init__(self, mesh: Tensor, tile: Tile = "bilinear") -> None:
        check_mesh("MeshWarp", mesh)
        check_option("MeshWarp", "tile", tile, TILES)
        self._mesh, self._tile = mesh, tile

    @property
    def mesh(self) -> Tensor:
        """`[B, h, w, 2]`, (x, y)."""
        return self._mesh

    @property
    def tile(self) -> Tile:
        """`"bilinear"` or `"homography"`."""
        return self._tile

    @classmethod
    def _unchecked(cls, mesh: Any, tile: Tile) -> MeshWarp:
        """Of a mesh that is checked where it is used, and of what trees are rebuilt around: stacked meshes, and
        things that are no tensors."""
        warp = object.__new__(cls)
        warp._mesh, warp._tile = mesh, tile
        return warp

    # --- constructors -------------------------------------------------------------------------------------------------

    @classmethod
    def from_saliency(
        cls, saliency: Tensor, fwhm: float = 13.0, anti_crop: bool = True, *, tile: Tile = "bilinear"
    ) -> MeshWarp:
        """The LZ warp of a saliency map `[B, h, w]`, LZU eq. 1 and 2; see `fastwarp.functional.lz_mesh`."""
        check_option("MeshWarp", "tile", tile, TILES)
        return cls._unchecked(F.lz_mesh(saliency, fwhm, anti_crop), tile)

    @classmethod
    def from_separable(cls, warp: SeparableWarp) -> MeshWarp:
        """The same warp as a mesh; to combine it with others, or to deform it."""
        if not isinstance(warp, SeparableWarp):
            raise TypeError(f"MeshWarp.from_separable: warp is {type(warp).__name__}, expected a SeparableWarp")
        shape = (len(warp), warp.knots_y.shape[1], warp.knots_x.shape[1])
        x, y = warp.knots_x[:, None, :].expand(shape), warp.knots_y[:, :, None].expand(shape)
        return cls(torch.stack([x, y], -1))

    @classmethod
    def from_offsets(cls, offsets: Tensor, source_size: Size | None = None, *, tile: Tile = "bilinear") -> MeshWarp:
        """The warp of a network's offsets `[B, h, w, 2]` from a uniform grid; see
        `fastwarp.functional.offset_mesh`."""
        return cls(F.offset_mesh(offsets, source_size), tile)

    @classmethod
    def from_function(
        cls,
        function: Callable[[Tensor], Tensor],
        shape: Size = (31, 51),
        *,
        tile: Tile = "bilinear",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MeshWarp:
        """The warp of a function from zoomed to source positions, a lens say; see
        `fastwarp.functional.function_mesh`."""
        return cls(F.function_mesh(function, shape, dtype=dtype, device=device), tile)

    @classmethod
    def from_control_points(
        cls, zoomed: Tensor, source: Tensor, shape: Size = (31, 51), *, tile: Tile = "bilinear"
    ) -> MeshWarp:
        """The least bent warp through pairs of points `[B, N, 2]` in [0, 1]; see
        `fastwarp.functional.control_point_mesh`."""
        return cls(F.control_point_mesh(zoomed, source, shape), tile)

    @classmethod
    def identity(
        cls,
        batch: int = 1,
        shape: Size = (2, 2),
        *,
        tile: Tile = "bilinear",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MeshWarp:
        """The warp that does nothing, with `shape` (h, w) vertices."""
        count = as_integer(batch)
        if count is None:
            raise TypeError(f"MeshWarp.identity: batch is {batch!r}, expected an integer")
        if count < 0:
            raise fail("MeshWarp.identity", "batch", count, "0 or more")
        y, x = (
            torch.linspace(0, 1, n, dtype=dtype, device=device) for n in check_size("MeshWarp.identity", "shape", shape)
        )
        mesh = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        return cls(mesh.repeat(count, 1, 1, 1), tile)

    @staticmethod
    def cat(warps: Sequence[MeshWarp]) -> MeshWarp:
        """One batch of several warps with equal numbers of vertices and one kind of tile."""
        if not warps:
            raise fail("MeshWarp.cat", "warps", "empty", "at least one warp")
        for warp in warps:
            if not isinstance(warp, MeshWarp):
                raise TypeError(f"MeshWarp.cat: warps has {type(warp).__name__}, expected MeshWarp")
            check_devices("MeshWarp.cat", first=warps[0].mesh, other=warp.mesh)
        kinds = {(tuple(w.mesh.shape[1:3]), w.tile) for w in warps}
        if len(kinds) > 1:
            raise fail("MeshWarp.cat", "warps", f"of {sorted(kinds)}", "equal numbers of vertices and one kind of tile")
        return MeshWarp(torch.cat([w.mesh for w in warps]), warps[0].tile)

    # --- as a batch ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.mesh.shape[0]

    def __getitem__(self, index: Any) -> MeshWarp:
        """Some warps of the batch; an integer keeps a batch of 1."""
        batch = len(self)
        number = as_integer(index)
        if number is not None:
            if not -batch <= number < batch:
                raise IndexError(f"MeshWarp: index {number} is out of range for a batch of {batch}")
            index = slice(number % batch, number % batch + 1)
        return MeshWarp(self.mesh[index], self.tile)

    def __repr__(self) -> str:
        shape = tuple(self.mesh.shape[1:3])
        about = f"batch={len(self)}, vertices={shape}, tile='{self.tile}', {self.mesh.dtype}"
        return f"MeshWarp({about}, device='{self.mesh.device}')"

    def to(self, *args: Any, **kwargs: Any) -> MeshWarp:
        """On another device, or in float32 or float64: takes what `torch.Tensor.to` does."""
        return MeshWarp(self.mesh.to(*args, **kwargs), self.tile)

    def pin_memory(self) -> MeshWarp:
        """In page-locked memory, as `DataLoader(pin_memory=True)` asks for."""
        return MeshWarp(self.mesh.pin_memory(), self.tile)

    def detach(self) -> MeshWarp:
        """Without gradients to the mesh."""
        return MeshWarp(self.mesh.detach(), self.tile)

    def check(self) -> MeshWarp:
        """Raises FastwarpError if a vertex is not finite or the mesh folds over itself (the Jacobian is negative at the
        corner of a tile), naming the first places; returns the warp. Waits for a GPU.

        The clamp of cropping warps may fold tiles at their outline, slightly; anti-crop warps fold only if their
        saliency is far sharper than the kernel.
        """
        report = self.report()
        if not report.ok:
            raise fail("MeshWarp.check", "mesh", f"a mesh with {report}", "finite vertices and no folds")
        return self

    def report(self) -> F.MeshReport:
        """Where the mesh is folded, collapsed, outside the source or not finite, as data and as text; see
        `fastwarp.functional.mesh_report`."""
        return F.mesh_report(self.mesh)

    # --- images -------------------------------------------------------------------------------------------------------

    def zoom(
        self,
        image: Tensor,
        size: Size,
        *,
        mode: Mode = "bilinear",
        antialias: bool = False,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
    ) -> Tensor:
        """Zooms `[B, C, H, W]` to `[B, C, *size]`; see `fastwarp.functional.mesh_zoom`."""
        return F.mesh_zoom(
            image,
            self.mesh,
            size,
            tile=self.tile,
            mode=mode,
            antialias=antialias,
            valid=valid,
            source_valid=source_valid,
        )

    def unzoom(
        self,
        features: Levels,
        size: Any = None,
        *,
        mode: Mode = "bilinear",
        antialias: bool = False,
        padding_mode: Literal["zeros", "border"] = "zeros",
        valid: Any = None,
        source_valid: Any = None,
        image_size: Any = None,
        strides: Any = None,
        phase: Any = 0.0,
        outside: Literal["keep", "fill"] = "keep",
    ) -> Levels:
        """Brings zoomed maps back to the source's geometry; see `fastwarp.functional.mesh_unzoom`.

        `features` is a tensor, or a list, tuple or dict of levels, in one launch; each keeps its size unless `size`
        says otherwise. Give `image_size`, that of the network's input, for maps of a strided network: they are then
        registered exactly.
        """
        return F.mesh_unzoom(
            features,
            self.mesh,
            size,
            tile=self.tile,
            mode=mode,
            antialias=antialias,
            padding_mode=padding_mode,
            valid=valid,
            source_valid=source_valid,
            image_size=image_size,
            strides=strides,
            phase=phase,
            outside=outside,
        )

    def zoom_labels(
        self,
        labels: Tensor,
        size: Size,
        ignore_index: int = 255,
        reduce: Reduce = "nearest",
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
    ) -> Tensor:
        """Zooms class ids `[B, H, W]`, `[H, W]` or `[B, C, H, W]`: the nearest pixel's, or that of most pixels; see
        `fastwarp.functional.mesh_zoom_labels`."""
        extents: dict[str, Any] = {"valid": valid, "source_valid": source_valid}
        return F.mesh_zoom_labels(labels, self.mesh, size, ignore_index, reduce, tile=self.tile, **extents)

    def unzoom_labels(
        self,
        labels: Tensor,
        size: Size | None = None,
        ignore_index: int = 255,
        reduce: Reduce = "nearest",
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
        image_size: Any = None,
        strides: Any = None,
        phase: Any = 0.0,
    ) -> Tensor:
        """Brings class ids back to the source's geometry; what the warp has lost is `ignore_index`. See
        `fastwarp.functional.mesh_unzoom_labels`.

        Give `image_size`, that of the network's input, for what a strided network predicts: it is then registered
        exactly.
        """
        options: dict[str, Any] = {
            "valid": valid,
            "source_valid": source_valid,
            "image_size": image_size,
            "strides": strides,
            "phase": phase,
        }
        return F.mesh_unzoom_labels(labels, self.mesh, size, ignore_index, reduce, tile=self.tile, **options)

    def zoom_soft_labels(
        self, labels: Tensor, size: Size, *, valid: Tensor | None = None, source_valid: Tensor | None = None
    ) -> Tensor:
        """Zooms probabilities of classes `[B, K, H, W]`, averaged, so that they still sum to one; see
        `fastwarp.functional.mesh_zoom_soft_labels`."""
        extents: dict[str, Any] = {"valid": valid, "source_valid": source_valid}
        return F.mesh_zoom_soft_labels(labels, self.mesh, size, tile=self.tile, **extents)

    def unzoom_soft_labels(
        self,
        labels: Tensor,
        size: Size | None = None,
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
        image_size: Any = None,
        strides: Any = None,
        phase: Any = 0.0,
    ) -> Tensor:
        """Brings probabilities of classes `[B, K, h, w]` back to the source's geometry, averaged; what the warp
        has lost is 1 / K. See `fastwarp.functional.mesh_unzoom_soft_labels`."""
        options: dict[str, Any] = {
            "valid": valid,
            "source_valid": source_valid,
            "image_size": image_size,
            "strides": strides,
            "phase": phase,
        }
        return F.mesh_unzoom_soft_labels(labels, self.mesh, size, tile=self.tile, **options)

    def zoom_frame(self, frame: Tensor, size: Size, **options: Any) -> Tensor:
        """Zooms and normalises uint8 `[H, W, C]` or `[B, H, W, C]` in one pass; see
        `fastwarp.functional.mesh_zoom_frame`."""
        return F.mesh_zoom_frame(frame, self.mesh, size, tile=self.tile, **options)

    # --- geometry -----------------------------------------------------------------------------------------------------

    def grid(self, size: Size) -> Tensor:
        """Grid of the zoom `[B, *size, 2]` for `F.grid_sample(..., align_corners=True)`."""
        return F.mesh_grid(self.mesh, size, tile=self.tile)

    def inverse_grid(self, size: Size) -> Tensor:
        """Grid of the unzoom `[B, *size, 2]` for `F.grid_sample(..., align_corners=True)`; -3 outside the mesh."""
        return F.mesh_grid(self.mesh, size, inverse=True, tile=self.tile)

    def inside(self, size: Size) -> Tensor:
        """Bool `[B, *size]`: where an unzoom has something to read."""
        return F.mesh_inside(self.mesh, size)

    def magnification(self, size: Size) -> Tensor:
        """Area magnification `[B, *size]` over the source, relative to uniform resizing."""
        return F.mesh_magnification(self.mesh, size, tile=self.tile)

    def _tiles(self) -> tuple[int, int]:
        return self.mesh.shape[1] - 1, self.mesh.shape[2] - 1

    def _windows(self) -> tuple[Any, bool, torch.device]:
        mesh = self.mesh.detach()
        return functools.partial(windows_of, mesh, self.tile == "homography"), False, mesh.device

    def _map(self, name: str, points: Tensor, source_size: Any, size: Any, inverse: bool) -> Tensor:
        return map_points(name, points, self.mesh, source_size, size, inverse, self.tile)


pytree.register_pytree_node(
    MeshWarp,
    lambda warp: ([warp.mesh], warp.tile),
    lambda tensors, tile: MeshWarp._unchecked(next(iter(tensors)), tile),
    serialized_type_name="fastwarp.MeshWarp",
)

default_collate_fn_map[MeshWarp] = lambda warps, *, collate_fn_map=None: MeshWarp.cat(warps)
