"""Transforms that need no other library: videos, images of multimodal models, annotations of COCO."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as TF
from helpers import assert_bitwise, random_mesh_warp, random_warp

from fastwarp import FastwarpError, MeshWarp, SeparableWarp, transforms
from fastwarp.transforms import AttentionZoom, WarpFilter, unzoom_video, warp_jitter, zoom_annotations, zoom_video

kinds = pytest.mark.parametrize("make", [random_warp, random_mesh_warp])


def test_other_libraries_are_imported_when_they_are_asked_for():
    script = "import sys, fastwarp.transforms; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert not {"torchvision", "albumentations", "kornia", "pycocotools", "PIL", "cv2"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("name", "library"), [("Warp", "torchvision"), ("KorniaWarp", "kornia"), ("AlbumentationsWarp", "albumentations")]
)
def test_a_library_that_is_not_there_is_named(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"fastwarp.transforms._{library}", raising=False)
    expected = f"fastwarp.transforms.{name} needs {library}: pip install 'fastwarp[{library}]'"
    with pytest.raises(ModuleNotFoundError, match=re.escape(expected)):
        getattr(transforms, name)
    with pytest.raises(AttributeError, match="has no attribute 'Zoom'"):
        _ = transforms.Zoom


# --- videos -----------------------------------------------------------------------------------------------------------


@kinds
def test_videos_are_their_frames(make):
    warp, video = make(6), torch.rand(2, 3, 2, 9, 11)
    assert_bitwise([zoom_video(warp, video, (5, 6))], [warp.zoom(video.flatten(0, 1), (5, 6)).unflatten(0, (2, 3))])
    a_clip = warp[:2]
    expected = torch.stack([a_clip[i].zoom(video[i], (5, 6), antialias=True) for i in range(2)])
    assert_bitwise([zoom_video(a_clip, video, (5, 6), antialias=True)], [expected])
    assert_bitwise([zoom_video(warp[0], video[0], (5, 6))], [warp[0].zoom(video[0], (5, 6))])
    assert_bitwise([unzoom_video(warp[:3], video[0])], [warp[:3].unzoom(video[0])])
    assert_bitwise([unzoom_video(a_clip, video, (7, 8))[1]], [a_clip[1].unzoom(video[1], (7, 8))])
    assert zoom_video(warp[0], video[:, :0], (5, 6)).shape == (2, 0, 2, 5, 6)


@kinds
def test_a_filtered_warp_rests_follows_and_rests(make):
    """By hand: nothing within `start`, `alpha` of the way after it, until within `stop`."""
    first, other = make(2), make(2)
    size = (101, 101)
    points = torch.rand(2, 50, 2) * 100

    def between(share):
        leaves = [a + share * (b - a) for a, b in zip(tensors(first), tensors(other), strict=True)]
        return SeparableWarp(*leaves) if make is random_warp else MeshWarp(*leaves)

    far = max(((a - b).abs() * 100).max().item() for a, b in zip(tensors(first), tensors(other), strict=True))
    smooth = WarpFilter(size, alpha=0.5, start=0.9 * far / 2, stop=0.1 * far / 2)
    assert_bitwise(tensors(smooth(first)), tensors(first))
    assert_bitwise(tensors(smooth(between(0.2))), tensors(first))  # too near
    where = smooth(other).unzoom_points(points, size, size)
    expected = between(0.5).unzoom_points(points, size, size)
    torch.testing.assert_close(where, expected, rtol=0, atol=1e-3)
    for _ in range(12):
        last = smooth(other)
    moved = [(a - b).abs().max() for a, b in zip(tensors(last), tensors(other), strict=True)]
    assert 0 < max(moved) * 100 < 0.1 * far  # rests a little before
    assert_bitwise(tensors(smooth(other)), tensors(last))
    smooth.reset()
    assert_bitwise(tensors(smooth(other)), tensors(other))


def tensors(warp):
    return [warp.knots_y, warp.knots_x] if isinstance(warp, SeparableWarp) else [warp.mesh]


def test_each_stream_of_a_filter_follows_by_itself():
    still, moved = (torch.tensor([[0.0, middle, 1.0]]) for middle in (0.5, 0.7))
    smooth = WarpFilter((101, 101), alpha=0.5, start=4, stop=0)
    smooth(SeparableWarp(still, still.repeat(2, 1)))
    got = smooth(SeparableWarp(still, torch.cat([still, moved])))
    torch.testing.assert_close(got.knots_x[:, 1], torch.tensor([0.5, 0.6]))


@kinds
def test_jitter_is_how_far_points_move(make):
    warps = make(4)
    source, size = (97, 161), (48, 80)
    share = (np.arange(32) + 0.5) / 32
    x, y = np.meshgrid(share * 161, share * 97)
    points = torch.from_numpy(np.stack([x, y], -1)).float().reshape(1, -1, 2).expand(4, -1, -1)
    zoomed = warps.zoom_points(points, source, size).double().numpy()
    expected = np.sqrt((np.diff(zoomed, axis=0) ** 2).sum(-1).mean(-1))
    got = warp_jitter(warps, source, size)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)
    assert warp_jitter(warps[0], source, size).shape == (0,)


def test_jitter_counts_what_both_frames_show():
    half, all_of_it = torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    both = SeparableWarp(torch.cat([half[:1], all_of_it[:1]]), all_of_it[:1])
    got = warp_jitter(both, (101, 101), (101, 101))  # y = 2 (p - 50) + 50 against p, within 25 .. 75
    p = (np.arange(32) + 0.5) / 32 * 101 - 0.5
    p = p[(p > 25) & (p < 75)]
    np.testing.assert_allclose(got.item(), np.sqrt(((p - 50) ** 2).mean()), rtol=1e-4)
    knots = torch.cat([half, half]).requires_grad_()
    (gradient,) = torch.autograd.grad(warp_jitter(SeparableWarp(knots, knots), (9, 9), (9, 9)).sum(), knots)
    assert not gradient.any()  # of streams that stand still too


# --- AttentionZoom ----------------------------------------------------------------------------------------------------

FRAME = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
ATTENTION = np.random.default_rng(0).random((6, 8)) ** 4


def test_attention_zoom_is_the_inverse_of_the_cumulative_marginals():
    zoom = AttentionZoom((20, 31))
    root = np.sqrt(ATTENTION)
    warp = zoom.warp_of(ATTENTION)
    for knots, marginal in ((warp.knots_y, root.sum(1)), (warp.knots_x, root.sum(0))):
        total = np.concatenate([[0], marginal.cumsum()]) / marginal.sum()
        expected = np.interp(np.linspace(0, 1, len(total)), total, np.linspace(0, 1, len(total)))
        np.testing.assert_allclose(knots[0].numpy(), expected, atol=1e-5)
    planes = torch.from_numpy(FRAME).permute(2, 0, 1)[None]
    expected = warp.zoom(planes, (20, 31), antialias=True)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(zoom(FRAME, ATTENTION), expected)


def test_attention_zoom_without_power_is_a_uniform_resize():
    got = AttentionZoom((20, 30), power=0)(torch.from_numpy(FRAME).permute(2, 0, 1).float(), ATTENTION)
    warp = SeparableWarp.identity()
    torch.testing.assert_close(
        got[None], warp.zoom(torch.from_numpy(FRAME).permute(2, 0, 1)[None].float(), (20, 30), antialias=True)
    )


def test_attention_zoom_of_every_kind_of_image():
    zoom = AttentionZoom((20, 31), max_magnification=3.0, min_magnification=0.5)
    expected = zoom(FRAME, ATTENTION)
    assert expected.dtype == np.uint8
    picture = zoom(PIL.Image.fromarray(FRAME), torch.from_numpy(ATTENTION))
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), expected)
    tensor = torch.from_numpy(FRAME).permute(2, 0, 1)
    np.testing.assert_array_equal(zoom(tensor, ATTENTION).permute(1, 2, 0).numpy(), expected)
    np.testing.assert_array_equal(zoom(FRAME[:, :, 1], ATTENTION), expected[:, :, 1])
    batch = zoom(np.stack([FRAME, FRAME[::-1]]), np.stack([ATTENTION, ATTENTION[::-1]]))
    np.testing.assert_array_equal(batch[0], expected)
    assert batch.shape == (2, 20, 31, 3)
    small = FRAME[:30, :40]
    several = zoom([FRAME, PIL.Image.fromarray(small)], [ATTENTION, ATTENTION])
    np.testing.assert_array_equal(several[0], expected)
    np.testing.assert_array_equal(np.asarray(several[1]), zoom(small, ATTENTION))
    locked = FRAME.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(zoom(locked, ATTENTION), expected)
    floats = zoom(FRAME.astype(np.float32), ATTENTION)
    assert floats.dtype == np.float32
    assert np.abs(floats - expected).max() <= 0.51
    assert zoom(PIL.Image.fromarray(FRAME[:, :, 0]).convert("F"), ATTENTION).mode == "F"


def test_transparent_pixels_count_for_nothing():
    colours = np.zeros((8, 8, 4), np.uint8)
    colours[:, :4] = (200, 100, 50, 255)
    colours[:, 4:] = (0, 255, 0, 0)
    got = np.asarray(AttentionZoom((2, 3), power=0)(PIL.Image.fromarray(colours, "RGBA"), np.ones((2, 2))))
    assert got.shape == (2, 3, 4)
    assert 0 < got[0, 1, 3] < 255
    assert np.abs(got[0, 1, :3].astype(int) - (200, 100, 50)).max() <= 2


def test_attention_zoom_to_boxes_shows_them_larger():
    zoom, size = AttentionZoom((224, 224)), (1200, 1920)
    boxes = torch.tensor([[900.0, 500.0, 960.0, 540.0]])
    warp = zoom.warp_of(boxes=boxes, image_size=size)
    (zoomed,) = warp.zoom_boxes(boxes, size, zoom.size)
    uniform = boxes[0] * torch.tensor([224 / 1920, 224 / 1200]).repeat(2)
    for axis in (0, 1):
        assert zoomed[axis + 2] - zoomed[axis] > 1.2 * (uniform[axis + 2] - uniform[axis])
    image = torch.rand(3, 60, 96)
    small = boxes / 20
    expected = zoom.warp_of(boxes=small, image_size=(60, 96)).zoom(image[None], zoom.size, antialias=True)[0]
    assert_bitwise([zoom(image, boxes=small)], [expected])
    assert_bitwise(zoom([image], boxes=[small.numpy()]), [expected])


def test_attention_zoom_passes_gradients():
    attention = torch.from_numpy(ATTENTION).requires_grad_()
    image = torch.from_numpy(FRAME).permute(2, 0, 1).double()
    zoomed = AttentionZoom((5, 6))(image, attention)
    (gradient,) = torch.autograd.grad(TF.mse_loss(zoomed, torch.zeros_like(zoomed)), attention)
    assert gradient.abs().sum() > 0


# --- annotations of COCO ----------------------------------------------------------------------------------------------

CROP = SeparableWarp(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.25, 0.75]]))  # the middle of 101 x 101


def test_annotations_of_a_cropping_warp_by_hand():
    annotation = {
        "id": 3,
        "bbox": [20.5, 30.5, 10.0, 20.0],
        "segmentation": [[30.5, 30.5, 50.5, 30.5, 50.5, 40.5, 30.5, 40.5]],
        "area": 200.0,
        "keypoints": [30, 40, 2, 20, 40, 1, 50, 50, 0],
        "num_keypoints": 2,
    }
    given = {key: list(value) if isinstance(value, list) else value for key, value in annotation.items()}
    (got,) = zoom_annotations(CROP, [annotation], (101, 101), (101, 101))
    assert annotation == given
    assert got["id"] == 3
    np.testing.assert_allclose(got["bbox"], [0, 10.5, 10.5, 40.0], atol=1e-4)
    assert got["visible"] == pytest.approx(0.5, abs=0.07)
    np.testing.assert_allclose(got["segmentation"][0], [10.5, 10.5, 50.5, 10.5, 50.5, 30.5, 10.5, 30.5], atol=1e-4)
    assert got["area"] == pytest.approx(800.0, rel=1e-4)
    np.testing.assert_allclose(got["keypoints"], [10, 30, 2, 0, 0, 0, 0, 0, 0], atol=1e-4)
    assert got["num_keypoints"] == 1
    assert zoom_annotations(CROP, [], (101, 101), (101, 101)) == []
    (box,) = zoom_annotations(CROP, [{"bbox": [40, 40, 10, 10], "area": 90.0}], (101, 101), (101, 101))
    assert box["area"] == pytest.approx(400.0, rel=1e-4)


# --- bad calls --------------------------------------------------------------------------------------------------------

WARP = SeparableWarp.identity()
NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: zoom_video(WARP, torch.rand(3, 4, 5), (3, 3)),
            FastwarpError,
            "zoom_video: video is of shape [3, 4, 5]",
        ),
        (lambda: zoom_video(3, torch.rand(2, 3, 4, 5), (3, 3)), TypeError, "zoom_video: warp is int, expected Sep"),
        (
            lambda: unzoom_video(SeparableWarp.identity(5), torch.rand(2, 3, 1, 4, 5)),
            FastwarpError,
            "unzoom_video: warp is a batch of 5, expected 1 or 2 or 6",
        ),
        (lambda: WarpFilter((3, 3), 0), FastwarpError, "WarpFilter: alpha is 0, expected a number from 1e-06 to 1"),
        (lambda: WarpFilter((3, 3), 1, 2, 3), FastwarpError, "WarpFilter: stop is 3, expected a number of pixels from"),
        (lambda: WarpFilter(3), TypeError, "WarpFilter: source_size is 3, expected two integers"),
        (lambda: filtered(WARP, SeparableWarp.identity(2)), FastwarpError, "WarpFilter: warp is SeparableWarp(batch=2"),
        (lambda: filtered(WARP, MeshWarp.identity()), FastwarpError, "expected one like the first: SeparableWarp"),
        (lambda: filtered(WARP, None), TypeError, "WarpFilter: warp is NoneType, expected SeparableWarp or MeshWarp"),
        (lambda: warp_jitter(3, (3, 3), (3, 3)), TypeError, "warp_jitter: warps is int, expected"),
        (lambda: warp_jitter(WARP, (3, 3), (3, 0)), FastwarpError, "warp_jitter: size is (3, 0), expected"),
        (lambda: AttentionZoom(3), TypeError, "AttentionZoom: size is 3, expected two integers"),
        (
            lambda: AttentionZoom((3, 3), power=-1),
            FastwarpError,
            "AttentionZoom: power is -1, expected a number from 0",
        ),
        (
            lambda: AttentionZoom((3, 3), min_magnification=2),
            FastwarpError,
            "AttentionZoom: min_magnification is 2, expected a number",
        ),
        (lambda: zoomed(FRAME), FastwarpError, "AttentionZoom: attention, boxes is neither, expected one of them"),
        (lambda: zoomed(FRAME, ATTENTION, boxes=torch.rand(1, 4)), FastwarpError, "is both, expected one of them"),
        (lambda: zoomed("a", ATTENTION), TypeError, "AttentionZoom: images is str, expected an image of Pillow"),
        (
            lambda: zoomed(FRAME[0, 0], ATTENTION),
            FastwarpError,
            "images is of shape [3], expected [H, W], [H, W, C] or",
        ),
        (
            lambda: zoomed(FRAME.astype(bool), ATTENTION),
            TypeError,
            "AttentionZoom: images has dtype bool, expected num",
        ),
        (lambda: zoomed(FRAME.astype(np.int64), ATTENTION), TypeError, "image has dtype int64"),
        (
            lambda: zoomed(PIL.Image.fromarray(FRAME).convert("P"), ATTENTION),
            TypeError,
            "AttentionZoom: images has mode 'P', expected one of L, LA, RGB",
        ),
        (lambda: zoomed(FRAME, ATTENTION[0]), FastwarpError, "attention is of shape [8], expected 3 dimensions [B, h"),
        (lambda: zoomed(FRAME, ATTENTION[:1]), FastwarpError, "attention is of shape [1, 1, 8], expected at least 2 x"),
        (lambda: zoomed(FRAME, ATTENTION * NAN), FastwarpError, "attention is NaN, infinite or negative in places"),
        (lambda: zoomed(FRAME, -ATTENTION), FastwarpError, "AttentionZoom: attention is NaN, infinite or negative"),
        (
            lambda: zoomed(FRAME, np.stack([ATTENTION] * 2)),
            FastwarpError,
            "attention is for 2 images, expected one for",
        ),
        (lambda: zoomed([FRAME], [ATTENTION] * 2), FastwarpError, "attention is 2 long, expected one for each of 1"),
        (lambda: zoomed(FRAME, boxes=torch.rand(1, 5)), FastwarpError, "boxes is of shape [1, 5], expected [N, 4]"),
        (lambda: annotated(WARP, [3]), TypeError, "zoom_annotations: annotations[0] is int, expected a dict"),
        (lambda: annotated(SeparableWarp.identity(2), []), FastwarpError, "warp is a batch of 2, expected one warp"),
        (
            lambda: annotated(WARP, [{"bbox": [1, 2, 3]}]),
            FastwarpError,
            "annotations[0]['bbox'] is [1, 2, 3], expected 4",
        ),
        (lambda: annotated(WARP, [{}, {"bbox": "a"}]), TypeError, "annotations[1]['bbox'] is 'a', expected numbers"),
        (lambda: annotated(WARP, [{"bbox": [1, 2, 3, NAN]}]), FastwarpError, "expected 4 finite numbers"),
        (
            lambda: annotated(WARP, [{"segmentation": [[1, 2, 3]]}]),
            FastwarpError,
            "annotations[0]['segmentation'] is [1, 2, 3], expected 2 finite numbers each",
        ),
        (
            lambda: annotated(WARP, [{"segmentation": 3}]),
            TypeError,
            "annotations[0]['segmentation'] is int, expected a",
        ),
        (lambda: annotated(WARP, [{"keypoints": [1, 2]}]), FastwarpError, "expected 3 finite numbers each"),
    ],
)
def test_bad_calls_are_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def filtered(*warps):
    smooth = WarpFilter((9, 9))
    for warp in warps:
        smooth(warp)


def zoomed(*args, **options):
    return AttentionZoom((8, 8))(*args, **options)


def annotated(warp, annotations):
    return zoom_annotations(warp, annotations, (9, 9), (9, 9))


def test_rle_without_pycocotools_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("RLE needs pycocotools: pip install 'fastwarp[coco]'")):
        annotated(WARP, [{"segmentation": {"size": [9, 9], "counts": "0"}}])
