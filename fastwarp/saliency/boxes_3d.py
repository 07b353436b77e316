"""Boxes in space to boxes in the image, as nuScenes describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwarp._checks import LEAST, check_number
from fastwarp.errors import check_devices, check_size, check_tensor, fail

# Corner k of a box lies where the bits of k say along its length, width and height; edges differ in one bit.
_SIGNS = [[1 - 2 * (k >> axis & 1) for axis in range(3)] for k in range(8)]
_EDGES = [(k, k | 1 << axis) for k in range(8) for axis in range(3) if not k >> axis & 1]


def project_boxes_3d(
    boxes: Tensor, intrinsics: Tensor, extrinsics: Tensor, image_size: tuple[int, int], *, near: float = 0.1
) -> Tensor:
    """The boxes that boxes in space cover in the image: what `box_density` takes, for LZU's monocular 3-D detection.

    A box is cut off at the plane z = near in front of the camera, projected, and cut off at the borders of the image;
    its result is the smallest upright box around what is left of it. Boxes of which nothing is left are left out.

    Args:
        boxes: `[N, 10]`, the numbers of nuScenes' `sample_annotation`: centre (x, y, z) in metres, size (width, length,
            height) in metres, and rotation, a quaternion (w, x, y, z), that turns the box's own axes (x along its
            length, y along its width, z up) into those of the frame in which the centre is given.
        intrinsics: `[3, 3]`, the camera's matrix: pixels of a point (x, y, z) are `(intrinsics @ (x, y, z))[:2] / z`,
            with x to the right, y down and z forward.
        extrinsics: `[4, 4]`, from the boxes' frame to the camera's. With the poses of nuScenes' tables, which lead from
            the sensor to the vehicle and from there to the world, the inverse of `ego_pose @ calibrated_sensor`.
        image_size: (H, W) in pixels.
        near: distance of the near plane in metres; positive. It keeps what is beside the camera from being projected
            to infinity.

    Returns:
        `[M, 4]` corners (x1, y1, x2, y2) in pixels, M <= N, in the order of the boxes and within the image. Float32, or
        float64 if `boxes` are; computed in float64. On a GPU counting them waits for it.

    Raises:
        FastwarpError: wrong shapes or devices; NaN or infinite numbers, negative sizes, quaternions of length 0; near
            not positive.
        TypeError: not floating-point tensors.

    Examples:
        >>> import torch
        >>> from fastwarp.saliency import box_density, project_boxes_3d
        >>> car = torch.tensor([[10.0, 0.0, 0.0, 2.0, 4.0, 1.5, 1.0, 0.0, 0.0, 0.0]])  # 10 m ahead, x is forward
        >>> camera = torch.tensor([[800.0, 0.0, 800.0], [0.0, 800.0, 450.0], [0.0, 0.0, 1.0]])
        >>> to_camera = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        >>> found = project_boxes_3d(car, camera, to_camera, (900, 1600))
        >>> found
        tensor([[700., 375., 900., 525.]])
        >>> box_density(found, (900, 1600), (27, 48)).shape
        torch.Size([1, 27, 48])
    """
    name = "project_boxes_3d"
    for argument, tensor, rows, columns in (
        ("boxes", boxes, "N", 10),
        ("intrinsics", intrinsics, 3, 3),
        ("extrinsics", extrinsics, 4, 4),
    ):
        shape = f"[{rows}, {columns}]"
        check_tensor(name, argument, tensor, shape, floating=True)
        if tensor.shape[1] != columns or (rows != "N" and tensor.shape[0] != rows):
            raise fail(name, argument, f"of shape {list(tensor.shape)}", shape)
        if not tensor.isfinite().all():
            raise fail(name, argument, "NaN or infinite in places", "finite numbers")
    check_devices(name, boxes=boxes, intrinsics=intrinsics, extrinsics=extrinsics)
    if (boxes[:, 3:6] < 0).any():
        raise fail(name, "boxes", "of negative size in places", "sizes (width, length, height) of at least 0")
    if (boxes[:, 6:] == 0).all(1).any():
        raise fail(name, "boxes", "without a rotation in places", "quaternions (w, x, y, z), not (0, 0, 0, 0)")
    height, width = check_size(name, "image_size", image_size)
    near = check_number(name, "near", near, LEAST, unit=" of metres")
    corners = _corners(boxes.double())
    corners = corners @ extrinsics[:3, :3].double().T + extrinsics[:3, 3].double()
    points, seen = _in_front(corners, near)
    pixels = points @ intrinsics.double().T
    found, visible = _hull_in_image(pixels[:, :, :2] / pixels[:, :, 2:], seen, width, height)
    return found[visible].to(torch.float64 if boxes.dtype == torch.float64 else torch.float32)


def _corners(boxes: Tensor) -> Tensor:
    """`[N, 8, 3]` in the frame of the centres."""
    w, x, y, z = (boxes[:, 6:] / boxes[:, 6:].norm(dim=1, keepdim=True)).unbind(1)
    rotation = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )
    half = boxes[:, [4, 3, 5]] / 2  # along x, y, z: length, width, height
    own = half[:, None] * torch.tensor(_SIGNS, dtype=boxes.dtype, device=boxes.device)
    return boxes[:, None, :3] + own @ rotation.mT


def _in_front(corners: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """Corners of the boxes cut off at the near plane: points `[N, 20, 3]` and which of them there are `[N, 20]`."""
    start, end = (corners[:, [edge[i] for edge in _EDGES]] for i in range(2))
    crosses = (start[..., 2] < near) != (end[..., 2] < near)
    rise = torch.where(crosses, end[..., 2] - start[..., 2], 1.0)
    cut = start + (end - start) * ((near - start[..., 2]) / rise)[..., None]
    points, seen = torch.cat([corners, cut], 1), torch.cat([corners[..., 2] >= near, crosses], 1)
    return torch.where(seen[..., None], points, points.new_tensor([0.0, 0.0, 1.0])), seen


def _hull_in_image(points: Tensor, seen: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Upright boxes `[N, 4]` around what the convex hulls of the points have in common with the image, and whether
    that has an extent `[N]`.

    It is around the points in the image and the parts of the image's four sides within the hull. A line meets the hull
    between the first and last place where it meets a segment between any two of its points.
    """
    low, high = points.new_tensor([0.0, 0.0]), points.new_tensor([float(width), float(height)])
    inside = seen & ((points >= low) & (points <= high)).all(-1)
    found = [_bounds(points, inside)]
    i, j = torch.combinations(torch.arange(points.shape[1], device=points.device)).unbind(1)
    for axis in range(2):  # of the coordinate that a side of the image holds fixed
        start, end = points[:, i], points[:, j]
        for side in (low[axis], high[axis]):
            before, after = start[..., axis] - side, end[..., axis] - side
            crosses = seen[:, i] & seen[:, j] & (before * after <= 0) & (before != after)
            place = start + (end - start) * (before / torch.where(crosses, before - after, 1.0))[..., None]
            first, last = _bounds(place, crosses).unflatten(1, (2, 2)).unbind(1)
            meets = crosses.any(1) & (first <= high)[:, 1 - axis] & (last >= low)[:, 1 - axis]
            ends = torch.stack([first, last], 1).clamp(low, high)
            ends[..., axis] = side
            found.append(_bounds(ends, meets[:, None].expand(-1, 2)))
    stacked = torch.stack(found)
    result = torch.cat([stacked[..., :2].amin(0), stacked[..., 2:].amax(0)], 1)
    return result, (result[:, 2:] > result[:, :2]).all(1)


def _bounds(points: Tensor, counted: Tensor) -> Tensor:
    """Smallest and largest coordinates `[N, 4]` of the points that count; inverted and infinite if there are none."""
    smallest = torch.where(counted[..., None], points, torch.inf).amin(1)
    return torch.cat([smallest, torch.where(counted[..., None], points, -torch.inf).amax(1)], 1)
