"""`fastwarp.transforms` for torchvision, Albumentations and kornia, and on RLE of pycocotools: against masks
that are warped pixel by pixel."""

from __future__ import annotations

import pickle
import re
import runpy
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp.transforms import RandomZoom, Warp, ZoomToBoxes, zoom_annotations

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

ROOT = Path(__file__).resolve().parents[2]
SOURCE, SIZE = (240, 320), (180, 300)
BOXES = torch.tensor([[20, 30, 90, 80], [150, 60, 200, 180], [5, 150, 310, 235], [100, 100, 131, 117]])
FORMATS = ("XYXY", "XYWH", "CXCYWH", "XYWHR", "CXCYWHR", "XYXYXYXY")


def warps(*ends: float):
    """Warps like those in use, of both kinds; cropping ones on request."""
    saliency = torch.full((1, 15, 21), 0.05)
    saliency[:, 4:6, 12:15] = saliency[:, 10:12, 3:5] = 1.0
    return [make.from_saliency(saliency, 6.0, not ends) for make in (SeparableWarp, MeshWarp)]


KINDS = pytest.mark.parametrize("warp", warps(), ids=["separable", "mesh"])


def filled(quads: Tensor) -> Tensor:
    """Masks `[N, H, W]` of the source's pixels whose centres lie in convex quads `[N, 4, 2]`."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in SOURCE), indexing="ij")
    inside = torch.ones(len(quads), *SOURCE, dtype=torch.bool)
    for k in range(4):
        a, b = (quads[:, j % 4, :, None, None] for j in (k, k + 1))
        inside &= (b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0]) >= 0
    return inside


def moved_by_hand(warp, masks: Tensor) -> Tensor:
    """The masks at the nearest source pixel of each target, by an index for each pixel."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in SIZE), indexing="ij")
    places = warp.unzoom_points(torch.stack([x, y], -1).flatten(0, 1), SOURCE, SIZE).unflatten(0, SIZE)
    column, row = (places[..., i].floor().long().clamp(0, SOURCE[1 - i] - 1) for i in (0, 1))
    return masks[:, row, column]


def hulls(masks: Tensor) -> Tensor:
    found = []
    for mask in masks:
        rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(found).float()


def in_format(form: str, boxes: Tensor = BOXES):
    """Boxes of a format; rotated ones by 0, 20, -3 and 100 degrees."""
    wrapped = tv_tensors.BoundingBoxes(boxes.float(), format="XYXY", canvas_size=SOURCE)
    if form in FORMATS[:3]:
        return v2.ConvertBoundingBoxFormat(form)(wrapped)
    turned = torch.cat([v2.ConvertBoundingBoxFormat("CXCYWH")(wrapped), torch.tensor([[0.0], [20], [-3], [100]])], 1)
    turned = tv_tensors.BoundingBoxes(turned, format="CXCYWHR", canvas_size=SOURCE)
    return v2.ConvertBoundingBoxFormat(form)(turned)


# --- torchvision ------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("form", FORMATS)
def test_boxes_are_the_hulls_of_their_masks(warp, form):
    boxes = in_format(form)
    corners = v2.ConvertBoundingBoxFormat("XYXYXYXY")(boxes) if form in FORMATS[3:] else None
    if corners is None:
        quads = v2.ConvertBoundingBoxFormat("XYXY")(boxes).as_subclass(Tensor)[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    else:
        quads = corners.as_subclass(Tensor)
    masks = tv_tensors.Mask(filled(quads.unflatten(1, (4, 2))))
    image = tv_tensors.Image(torch.rand(3, *SOURCE))
    moved_image, moved = Warp(warp, SIZE)(image, {"boxes": boxes, "masks": masks, "labels": torch.arange(4)})
    assert moved_image.shape == (3, *SIZE)
    assert moved["boxes"].format == boxes.format
    assert moved["boxes"].canvas_size == SIZE
    assert torch.equal(moved["labels"], torch.arange(4))
    by_hand = moved_by_hand(warp, masks.as_subclass(Tensor))
    assert (moved["masks"] != by_hand).float().mean() < 1e-4  # float32 coordinates half way between two pixels
    if corners is None:
        got = v2.ConvertBoundingBoxFormat("XYXY")(moved["boxes"]).as_subclass(Tensor)
        assert (got - hulls(by_hand)).abs().max() <= 1.0
        return
    quads = v2.ConvertBoundingBoxFormat("XYXYXYXY")(moved["boxes"]).as_subclass(Tensor).unflatten(1, (4, 2))
    for quad, mask in zip(quads, by_hand, strict=True):
        pixels = mask.nonzero().flip(1) + 0.5
        for a, b in ((0, 1), (1, 2)):
            axis = (quad[b] - quad[a]) / (quad[b] - quad[a]).norm()
            along, sides = pixels @ axis, (quad @ axis).aminmax()
            assert (along.min() - sides.min - 0.5).abs() <= 1.2  # a pixel, seen at an angle
            assert (sides.max - along.max() - 0.5).abs() <= 1.2


@KINDS
def test_a_sample_moves_together(warp):
    """Each part as the warp's methods move it, whatever the structure, the dtype and the kind of image."""
    move = Warp(warp, SIZE)
    points = tv_tensors.KeyPoints(torch.rand(2, 5, 2) * 200, canvas_size=SOURCE)
    video = tv_tensors.Video(torch.randint(0, 256, (2, 3, *SOURCE), dtype=torch.uint8))
    labels = tv_tensors.Mask(torch.randint(0, 9, SOURCE))
    picture = PIL.Image.fromarray(video[0].permute(1, 2, 0).numpy())
    sample = {"image": picture, "more": [points, (video, labels)], "text": "a"}
    moved = move(sample)
    expected = warp.zoom(video.as_subclass(Tensor), SIZE, antialias=True)
    assert torch.equal(moved["more"][1][0].as_subclass(Tensor), expected)
    assert np.array_equal(np.asarray(moved["image"]), expected[0].permute(1, 2, 0).numpy())
    assert type(moved["more"][1][0]) is tv_tensors.Video
    expected = warp.zoom_points(points.reshape(-1, 2).as_subclass(Tensor), SOURCE, SIZE).view(2, 5, 2)
    assert torch.equal(moved["more"][0].as_subclass(Tensor), expected)
    assert moved["more"][0].canvas_size == SIZE
    assert moved["more"][1][1].dtype == torch.int64
    by_hand = moved_by_hand(warp, labels[None].as_subclass(Tensor))[0]
    assert (moved["more"][1][1] != by_hand).float().mean() < 1e-3
    assert moved["text"] == "a"
    assert np.array_equal(np.asarray(picture), video[0].permute(1, 2, 0).numpy())  # the sample is as it was
    plain = move(video.as_subclass(Tensor).float() / 255)
    assert type(plain) is Tensor
    torch.testing.assert_close(plain, warp.zoom(video.as_subclass(Tensor).float() / 255, SIZE, antialias=True))
    grey = move(tv_tensors.Image(torch.rand(4, 2, 1, *SOURCE)))
    assert grey.shape == (4, 2, 1, *SIZE)
    for mode in ("L", "RGBA", "F"):
        assert move(picture.convert(mode)).mode == mode


def test_integer_coordinates_are_rounded():
    warp = warps()[0]
    boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=SOURCE)
    points = tv_tensors.KeyPoints(BOXES[:, :2], canvas_size=SOURCE)
    got_boxes, got_points = Warp(warp, SIZE)(boxes, points)
    expected = warp.zoom_boxes(BOXES.float(), SOURCE, SIZE).round()
    assert got_boxes.dtype == got_points.dtype == torch.int64
    assert torch.equal(got_boxes.float().as_subclass(Tensor), expected)
    assert torch.equal(got_points.float().as_subclass(Tensor), expected[:, :2])
    assert Warp(warp)(boxes).canvas_size == SOURCE
    half = Warp(warp, SIZE)(tv_tensors.BoundingBoxes(BOXES.half(), format="CXCYWH", canvas_size=SOURCE))
    assert half.dtype == torch.float16


def test_samples_without_instances():
    none = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYWH", canvas_size=SOURCE)
    masks = tv_tensors.Mask(torch.zeros(0, *SOURCE, dtype=torch.bool))
    for move in (Warp(warps()[1], SIZE), ZoomToBoxes(SIZE)):
        got = move({"boxes": none, "masks": masks})
        assert got["boxes"].shape == (0, 4)
        assert got["masks"].shape == (0, *SIZE)


def test_cropped_boxes_are_clamped_and_cropped_keypoints_are_not():
    crop = SeparableWarp(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.25, 0.75]]))
    boxes = in_format("XYXY", torch.cat([BOXES, torch.tensor([[0, 0, 60, 40]])]))
    points = tv_tensors.KeyPoints([[10.0, 20.0], [160, 120]], canvas_size=SOURCE)
    _, boxes, points = Warp(crop)(torch.zeros(3, *SOURCE), boxes, points)
    assert boxes.min() == 0
    assert points[0].min() < 0
    assert v2.SanitizeBoundingBoxes(labels_getter=None)(boxes).shape[0] == 4


@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_zoom_to_boxes_gives_them_more_pixels(kind):
    small = BOXES[3:]
    for form in ("XYXY", "CXCYWHR"):
        boxes = tv_tensors.BoundingBoxes(small.float(), format="XYXY", canvas_size=SOURCE)
        if form == "CXCYWHR":
            boxes = tv_tensors.BoundingBoxes(
                torch.tensor([[115.5, 108.5, 31, 17, 0.0]]), format="CXCYWHR", canvas_size=SOURCE
            )
        _, got = ZoomToBoxes(SOURCE, kind=kind)(tv_tensors.Image(torch.rand(3, *SOURCE)), boxes)
        assert (got[0, 2] - got[0, 0] if form == "XYXY" else got[0, 2]) > 1.2 * 31


@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_random_zoom_is_random_and_repeats(kind):
    move, image = RandomZoom(SIZE, kind=kind), tv_tensors.Image(torch.rand(1, *SOURCE))
    boxes = in_format("XYXY")
    results = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        results.append(move({"image": image, "boxes": boxes, "masks": tv_tensors.Mask(filled_boxes())}))
    assert torch.equal(results[0]["image"], results[2]["image"])
    assert torch.equal(results[0]["boxes"], results[2]["boxes"])
    assert not torch.equal(results[0]["image"], results[1]["image"])
    for result in results:  # all parts by one warp
        assert (result["boxes"].as_subclass(Tensor) - hulls(result["masks"])).abs().max() <= 1.5  # thin tips


def filled_boxes() -> Tensor:
    return filled(BOXES[:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2)).float())


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return PIPELINE(tv_tensors.Image(torch.full((3, *SOURCE), 17 * index, dtype=torch.uint8)))


PIPELINE = v2.Compose([v2.RandomHorizontalFlip(), Warp(warps()[0], SIZE), v2.ToDtype(torch.float32, scale=True)])


def test_in_pipelines_and_workers():
    again = pickle.loads(pickle.dumps(PIPELINE))
    assert repr(again) == repr(PIPELINE)
    assert "SeparableWarp(batch=1" in repr(PIPELINE)
    batches = list(DataLoader(Samples(), batch_size=2, num_workers=1))
    expected = torch.arange(4)[:, None, None, None].expand(-1, 3, *SIZE) * 17 / 255
    torch.testing.assert_close(torch.cat(batches), expected)


class Unknown(tv_tensors.TVTensor):
    pass


WARP = warps()[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Warp(3), TypeError, "Warp: warp is int, expected SeparableWarp or MeshWarp"),
        (lambda: Warp(SeparableWarp.identity(2)), FastwarpError, "Warp: warp is a batch of 2, expected one warp"),
        (lambda: Warp(WARP, 3), TypeError, "Warp: size is 3, expected two integers (height, width)"),
        (lambda: RandomZoom(SIZE, regions=0), FastwarpError, "RandomZoom: regions is 0, expected an integer of at"),
        (lambda: RandomZoom(SIZE, kind="a"), FastwarpError, "RandomZoom: kind is 'a', expected 'separable' or 'mesh'"),
        (lambda: ZoomToBoxes(SIZE, fwhm=0), FastwarpError, "ZoomToBoxes: fwhm is 0"),
        (lambda: ZoomToBoxes()(torch.rand(3, 8, 9)), FastwarpError, "the sample is without BoundingBoxes, expected"),
        (
            lambda: Warp(WARP)(tv_tensors.Image(torch.rand(3, 8, 9)), in_format("XYXY")),
            FastwarpError,
            "Warp: the sample is of images of [(8, 9), (240, 320)], expected one (height, width)",
        ),
        (lambda: Warp(WARP)(torch.zeros(3, 8, 9, dtype=torch.int16)), TypeError, "image has dtype int16"),
        (lambda: Warp(WARP)(PIL.Image.new("P", (9, 8))), TypeError, "Warp: the image has mode 'P', expected one of L"),
        (lambda: Warp(WARP)(Unknown(torch.rand(3, 8, 9))), TypeError, "Warp: the sample has a Unknown, expected Image"),
    ],
)
def test_bad_calls_are_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


# --- pycocotools ------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("compressed", [True, False])
def test_rle_moves_as_its_mask(warp, compressed):
    mask = pytest.importorskip("pycocotools.mask")
    source = filled_boxes()[1]
    rle = mask.encode(np.asfortranarray(source.numpy().astype(np.uint8)))
    if not compressed:
        column_first = source.T.flatten().int().tolist()
        counts, last = [], 0
        run = 0
        for value in column_first:
            if value != last:
                counts.append(run)
                run, last = 0, value
            run += 1
        rle = {"size": list(SOURCE), "counts": [*counts, run]}
    (got,) = zoom_annotations(warp, [{"segmentation": rle, "iscrowd": 1, "area": 0.0}], SOURCE, SIZE)
    expected = moved_by_hand(warp, source[None])[0]
    moved = torch.from_numpy(mask.decode(got["segmentation"])).bool()
    assert (moved != expected).float().mean() < 1e-4
    assert got["area"] == moved.sum()
    with pytest.raises(FastwarpError, match=re.escape("annotations[0]['segmentation'] is [240, 320], expected RLE of")):
        zoom_annotations(warp, [{"segmentation": rle}], (100, 100), SIZE)


@KINDS
def test_polygons_cover_the_warped_mask(warp):
    mask = pytest.importorskip("pycocotools.mask")
    corners = BOXES[2, [0, 1, 2, 1, 2, 3, 0, 3]].double().tolist()
    (got,) = zoom_annotations(warp, [{"segmentation": [corners], "area": 1.0}], SOURCE, SIZE, tolerance=0.2)
    drawn = torch.from_numpy(mask.decode(mask.frPyObjects(got["segmentation"], *SIZE))).bool()[..., 0]
    expected = moved_by_hand(warp, filled_boxes()[2:3])[0]
    assert (drawn ^ expected).sum() < 0.01 * expected.sum()
    assert got["area"] == pytest.approx(expected.sum().item(), rel=0.01)


# --- transformers -----------------------------------------------------------------------------------------------------


def test_a_processor_of_transformers_gets_zoomed_images(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["vlm_preprocess.py", "--out", str(tmp_path / "zoomed.png")])
    example = runpy.run_path(str(ROOT / "examples" / "vlm_preprocess.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert "pixel_values (1, 3, 224, 224)" in text
    assert PIL.Image.open(tmp_path / "zoomed.png").size == (224, 224)
    image, attention = (
        torch.randint(0, 256, (90, 160, 3), dtype=torch.uint8).numpy(),
        np.random.default_rng(0).random((8, 8)),
    )
    plain = example["CLIPImageProcessor"]()
    processor = example["ZoomingProcessor"](plain)
    got = processor([image] * 2, [attention] * 2, return_tensors="pt")["pixel_values"]
    zoomed = torch.from_numpy(processor.zoom(image, attention)).permute(2, 0, 1).double() / 255
    expected = (zoomed - torch.tensor(plain.image_mean)[:, None, None]) / torch.tensor(plain.image_std)[:, None, None]
    torch.testing.assert_close(got[1].double(), expected, rtol=0, atol=1e-3)


# --- Albumentations and kornia ----------------------------------------------------------------------------------------


@KINDS
def test_albumentations(warp):
    albumentations = pytest.importorskip("albumentations")
    from fastwarp.transforms import AlbumentationsWarp

    image = torch.randint(0, 256, (*SOURCE, 3), dtype=torch.uint8).numpy()
    points = np.array([[10.0, 20.0], [200.0, 100.0]], np.float32)
    pipeline = albumentations.Compose(
        [AlbumentationsWarp(warp, SIZE)],
        bbox_params=albumentations.BboxParams(format="pascal_voc", label_fields=["labels"]),
        keypoint_params=albumentations.KeypointParams(format="xy"),
    )
    mask = filled_boxes()[1].numpy().astype(np.uint8)
    got = pipeline(image=image, mask=mask, bboxes=BOXES.float().numpy(), labels=[1, 2, 3, 4], keypoints=points)
    expected = warp.zoom(torch.from_numpy(image).permute(2, 0, 1)[None], SIZE, antialias=True)[0].permute(1, 2, 0)
    assert np.array_equal(got["image"], expected.numpy())
    expected = warp.zoom_boxes(BOXES.float(), SOURCE, SIZE).clamp(min=0).numpy()
    np.testing.assert_allclose(got["bboxes"], expected, atol=1e-2)
    expected = warp.zoom_points(torch.from_numpy(points) + 0.5, SOURCE, SIZE).numpy() - 0.5
    np.testing.assert_allclose(got["keypoints"], expected, atol=1e-2)
    by_hand = moved_by_hand(warp, torch.from_numpy(mask)[None])[0].numpy()
    assert (got["mask"] != by_hand).mean() < 1e-4
    assert list(got["labels"]) == [1, 2, 3, 4]


@KINDS
@pytest.mark.parametrize("size", [None, SIZE])
def test_kornia(warp, size):
    kornia = pytest.importorskip("kornia")
    from fastwarp.transforms import KorniaWarp

    image, target = torch.rand(2, 3, *SOURCE), size or SOURCE
    pipeline = kornia.augmentation.AugmentationSequential(
        KorniaWarp(warp, size), data_keys=["input", "mask", "bbox_xyxy", "keypoints"]
    )
    boxes, points = BOXES.float().expand(2, 4, 4), torch.rand(2, 5, 2) * 200
    mask = filled_boxes()[None, 1:2].float().expand(2, -1, -1, -1)
    got_image, got_mask, got_boxes, got_points = pipeline(image, mask, boxes, points)
    torch.testing.assert_close(got_image, warp.zoom(image, target, antialias=True))
    last = torch.tensor([0.0, 0, 1, 1])  # kornia's boxes end with their last pixel
    expected = warp.zoom_boxes(boxes + last, SOURCE, target) - last
    torch.testing.assert_close(got_boxes, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(got_points, warp.zoom_points(points + 0.5, SOURCE, target) - 0.5, rtol=0, atol=1e-3)
    if size:
        assert (got_mask[1, 0] != moved_by_hand(warp, mask[0])[0]).float().mean() < 1e-4
