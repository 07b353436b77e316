"""Saliency from labels and from boxes in space, against explicit loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.saliency import boundary_density, box_density, project_boxes_3d

# --- labels -----------------------------------------------------------------------------------------------------------


def boundaries(labels: np.ndarray, ignored: int | None) -> np.ndarray:
    """Pixel by pixel and neighbour by neighbour."""
    height, width = labels.shape
    result = np.zeros(labels.shape)
    for r in range(height):
        for c in range(width):
            for i in range(max(r - 1, 0), min(r + 2, height)):
                for j in range(max(c - 1, 0), min(c + 2, width)):
                    known = ignored is None or ignored not in (labels[r, c], labels[i, j])
                    result[r, c] += known and labels[r, c] != labels[i, j]
    return (result > 0).astype(float)


def blobs(seed: int, height: int, width: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 3, ((height + 2) // 3, (width + 2) // 3), generator=random)
        .repeat_interleave(3, 0)
        .repeat_interleave(3, 1)[:height, :width]
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("ignored", [None, 1, 200])
@pytest.mark.parametrize(("size", "shape"), [((17, 23), (5, 7)), ((8, 8), (4, 2)), ((1, 9), (1, 3)), ((3, 3), (5, 7))])
def test_boundary_density(size, shape, ignored, dtype):
    labels = torch.stack([blobs(i, *size) for i in range(2)]).to(dtype)
    before = labels.clone()
    density = boundary_density(labels, shape, 200.0, 1.0, ignored)
    for one, image in zip(density, labels.numpy(), strict=True):
        weights = 1 + 199 * boundaries(image, ignored)
        expected = F.adaptive_avg_pool2d(torch.from_numpy(weights)[None], shape)[0]
        torch.testing.assert_close(one.double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(labels, before)
    assert torch.equal(boundary_density(labels[0], shape, ignore_index=ignored), density[:1])


def test_boundaries_flip_with_the_labels():
    labels = blobs(0, 12, 20)[None]
    density = boundary_density(labels, (4, 5))
    assert torch.equal(boundary_density(labels.flip(2), (4, 5)), density.flip(2))
    assert torch.equal(boundary_density(labels.flip(1), (4, 5)), density.flip(1))
    assert torch.equal(boundary_density(labels.mT, (5, 4)), density.mT)


def test_uniform_and_ignored_labels_are_background():
    assert torch.equal(boundary_density(torch.full((1, 9, 9), 3), (2, 2)), torch.ones(1, 2, 2))
    hood = torch.zeros(1, 9, 9, dtype=torch.uint8)
    hood[:, 6:] = 255
    assert torch.equal(boundary_density(hood, (3, 3), ignore_index=255), torch.ones(1, 3, 3))
    assert boundary_density(hood, (3, 3))[0, 1].min() > 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"labels": torch.zeros(1, 4, 4)}, TypeError, "labels has dtype float32, expected uint8"),
        ({"labels": torch.zeros(4, dtype=torch.uint8)}, FastwarpError, r"labels is of shape \[4\]"),
        ({"labels": torch.zeros(1, 0, 4, dtype=torch.uint8)}, FastwarpError, r"labels is of shape \[1, 0, 4\]"),
        ({"labels": None}, TypeError, "labels is NoneType"),
        ({"shape": (0, 4)}, FastwarpError, r"shape is \(0, 4\)"),
        ({"edge": -1.0}, FastwarpError, "edge is -1.0"),
        ({"background": math.nan}, FastwarpError, "background is nan"),
    ],
)
def test_bad_labels(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        boundary_density(**{"labels": torch.zeros(1, 8, 8, dtype=torch.uint8), **arguments})
    assert str(caught.value).startswith("boundary_density: ")


# --- boxes in space ---------------------------------------------------------------------------------------------------


SIZE = (900, 1600)
CAMERA = torch.tensor([[1200.0, 0, 810], [0, 1190, 440], [0, 0, 1]], dtype=torch.float64)
FORWARD = torch.tensor([[0.0, -1, 0, 0.1], [0, 0, -1, 1.5], [1, 0, 0, -0.3], [0, 0, 0, 1]], dtype=torch.float64)


def random_boxes(n: int, seed: int = 0) -> Tensor:
    """All around a camera that looks along x: far and near, in front and behind, beside and around it."""
    random = torch.Generator().manual_seed(seed)
    centre = (torch.rand(n, 3, generator=random, dtype=torch.float64) - 0.4) * torch.tensor([40.0, 20, 6])
    size = torch.rand(n, 3, generator=random, dtype=torch.float64) * 4 + 0.2
    rotation = torch.randn(n, 4, generator=random, dtype=torch.float64)  # of any length
    return torch.cat([centre, size, rotation], 1)


def sampled_box(box: np.ndarray, near: float, steps: int = 81) -> np.ndarray | None:
    """The bounds of the pixels that a dense grid of points on the box's faces reaches, or None."""
    rotation = scipy_rotation(box[6:])
    half = box[[4, 3, 5]] / 2
    u, v = np.meshgrid(np.linspace(-1, 1, steps), np.linspace(-1, 1, steps))
    faces = [np.insert(np.stack([u.ravel(), v.ravel()], 1), axis, s, 1) for axis in range(3) for s in (-1, 1)]
    points = (np.concatenate(faces) * half) @ rotation.T + box[:3]
    points = points @ FORWARD.numpy()[:3, :3].T + FORWARD.numpy()[:3, 3]
    points = points[points[:, 2] >= near]
    pixels = points @ CAMERA.numpy().T
    pixels = pixels[:, :2] / pixels[:, 2:]
    pixels = pixels[((pixels >= 0) & (pixels <= SIZE[::-1])).all(1)]
    return np.concatenate([pixels.min(0), pixels.max(0)]) if len(pixels) else None


def scipy_rotation(quaternion: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(quaternion[[1, 2, 3, 0]]).as_matrix()


def test_projection_covers_what_points_on_the_faces_reach():
    boxes = random_boxes(300)
    projected = [project_boxes_3d(box[None], CAMERA, FORWARD, SIZE, near=1.0) for box in boxes]
    together = project_boxes_3d(boxes, CAMERA, FORWARD, SIZE, near=1.0)
    assert torch.equal(torch.cat(projected), together)
    H, W = SIZE
    assert ((together >= 0) & (together <= torch.tensor([W, H, W, H]))).all()
    kinds = {"whole": 0, "cut": 0, "unseen": 0}
    for box, found in zip(boxes.numpy(), projected, strict=True):
        expected = sampled_box(box, 1.0)
        if expected is None:
            kinds["unseen"] += 1
            # What the points miss is smaller than their distance.
            assert len(found) == 0 or (found[0, 2:] - found[0, :2]).min() < 40
            continue
        assert len(found) == 1
        got = found[0].numpy()
        assert (got[:2] <= expected[:2] + 1e-6).all()
        assert (got[2:] >= expected[2:] - 1e-6).all()
        # 80 steps along an edge at 1 m or more: at most 4.2 m / 80 * 1200 px = 63 px apart, most are far closer.
        np.testing.assert_allclose(got, expected, rtol=0, atol=63)
        kinds["cut" if (got[:2] == 0).any() or (got[2:] == SIZE[::-1]).any() else "whole"] += 1
    assert min(kinds.values()) > 20, kinds


def test_a_box_in_front_is_the_bounds_of_its_corners():
    box = torch.tensor([[10.0, 0, 0, 2, 4, 1.5, 1, 0, 0, 0]])
    camera = torch.tensor([[800.0, 0, 800], [0, 800, 450], [0, 0, 1]])
    found = project_boxes_3d(
        box, camera, torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]), SIZE
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[700.0, 375, 900, 525]]))
    quarter = torch.tensor([[10.0, 0, 0, 2, 4, 1.5, math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)]])
    found = project_boxes_3d(
        quarter, camera, torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]), SIZE
    )
    across = 800 * 2 / 9  # turned about z: 4 m wide, from 9 m on
    torch.testing.assert_close(found, torch.tensor([[800 - across, 450 - 600 / 9, 800 + across, 450 + 600 / 9]]))


def test_a_box_around_the_camera_fills_the_image_and_one_behind_it_is_left_out():
    around = torch.tensor([[0.0, 0, 0, 10, 10, 10, 1, 0, 0, 0], [-9.0, 0, 0, 2, 2, 2, 1, 0, 0, 0]], dtype=torch.float64)
    found = project_boxes_3d(around, CAMERA, FORWARD, SIZE)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, SIZE[1], SIZE[0]]], dtype=torch.float64))


def test_only_what_is_in_the_image_counts():
    """A bar across a corner of the image, from (-162, 312) to (262, -112): around its part in the image, not the part
    of what is around it."""
    camera = torch.tensor([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]])
    turn = math.pi / 8
    bar = torch.tensor([[10.0, 7.5, 3.5, 0.1, 0.1, 6.0, math.cos(turn), math.sin(turn), 0, 0]])
    to_camera = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    found = project_boxes_3d(bar, camera, to_camera, SIZE)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 150, 150]]), rtol=0, atol=15)


def test_nothing_and_density():
    nothing = project_boxes_3d(torch.zeros(0, 10), CAMERA.float(), FORWARD.float(), SIZE)
    assert nothing.shape == (0, 4)
    assert box_density(project_boxes_3d(random_boxes(50), CAMERA, FORWARD, SIZE), SIZE, (27, 48)).shape == (1, 27, 48)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"boxes": torch.ones(2, 7)}, FastwarpError, r"boxes is of shape \[2, 7\], expected \[N, 10\]"),
        ({"boxes": torch.ones(2, 10, dtype=torch.int64)}, TypeError, "boxes has dtype int64"),
        ({"boxes": torch.full((1, 10), math.nan)}, FastwarpError, "boxes is NaN or infinite in places"),
        ({"boxes": torch.tensor([[0.0, 0, 0, -1, 1, 1, 1, 0, 0, 0]])}, FastwarpError, "boxes is of negative size"),
        ({"boxes": torch.zeros(1, 10)}, FastwarpError, "boxes is without a rotation in places"),
        ({"intrinsics": torch.eye(4)}, FastwarpError, r"intrinsics is of shape \[4, 4\], expected \[3, 3\]"),
        ({"extrinsics": torch.eye(3)}, FastwarpError, r"extrinsics is of shape \[3, 3\], expected \[4, 4\]"),
        ({"image_size": 900}, TypeError, "image_size is 900"),
        ({"near": 0.0}, FastwarpError, "near is 0.0, expected a number of metres"),
    ],
)
def test_bad_boxes(arguments, error, words):
    valid = {"boxes": torch.ones(1, 10), "intrinsics": torch.eye(3), "extrinsics": torch.eye(4), "image_size": SIZE}
    with pytest.raises(error, match=words) as caught:
        project_boxes_3d(**{**valid, **arguments})
    assert str(caught.value).startswith("project_boxes_3d: ")
