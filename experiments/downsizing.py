"""Does DownsizeNet lose less than a plain resize? `python experiments/downsizing.py --data FOLDER --preset small`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import textures
from command import main
from presets import LONGER, RESIZED, SEGMENTERS, detectors, resizers
from result_page import Comparison, Page, Section

SAYS = """
DownsizeNet gains over bilinear interpolation with all networks: DeepLabv3+ on Cityscapes has 55.2 and 55.3 mIoU at
x0.55, 51.9 and 52.5 at x0.45, 46.4 and 47.3 at x0.35 (table 6), RefineDet on VOC2007 57.7 and 58.8 mAP from 300 to
100 pixels. There, areas have 58.9, and DownsizeNet with 4 x 4 taps 59.4 (section 5.1). Texture without distances is
worse than bilinear (table 5). There is no antialiased interpolation among them, and one training of each.
"""
RAN = """
CamVid, halved by averaging to 240 x 180 first (the paper resizes to 300 pixels first), then resized by each method to
the size below, x0.4 where nothing else is said, and segmented; 400 steps of 8 images. `antialiased` is a triangle
filter as wide as the ratio. DownsizeNet has 3 layers of 16 channels and 2 x 2 taps, as the paper mostly, starts as
bilinear interpolation, and learns together with the network; with 4 x 4 taps it starts as bicubic interpolation.
`texture alone` sees no distances.
"""
FOUND = """
On fine structures DownsizeNet gains, as the paper says, and more than there: with 2 x 2 taps 3.3 mIoU over bilinear
interpolation, with 4 x 4 taps 12.7 over bicubic interpolation, as which it starts. Cracks and wires of one or two
pixels are then found twice as well. Both averages lose more than ten points to bilinear interpolation: they blur the
stripes away, which aliasing leaves visible as other stripes. So learned weights are worth most where what matters is
finer than the small image's pixels, and the taps should reach as far as these do: 2.5 pixels here, more than 2 x 2 taps
cover.

On photos the differences are tenths of a point. DownsizeNet has a higher mean than bilinear interpolation at x0.55,
x0.4 and x0.35, by as much as in the paper, and a lower one at x0.45; what is claimed is the gain at the smallest size,
where the paper's is the largest too. Between the other methods nothing is: the seeds of one lie as far apart (a
standard deviation of 0.7 to 1.1) as the methods. 4 x 4 taps, and texture without distances, which is worse in the
paper, are as good as 2 x 2 taps with distances in the mean. Averaging gains nothing over bilinear here. With three
times the steps both gain more than three points, and their difference is not claimed either. All three other networks
have a higher mean with DownsizeNet, in the paper's order, and of 1 to 5 layers 3 have the highest mean, as there; none
of it is claimed. The paper has one training of each.

Detection of generated scenes shows nothing either, its AP varies too much between seeds. A DownsizeNet that learned in
the other task and is used as it is does as well as one that learns with the network, in both directions; the paper has
the one from detection worse than bilinear in segmentation.
"""
NAMES = ("bilinear", "bicubic", "area", "antialiased", "DownsizeNet", "DownsizeNet, 4 x 4 taps", "texture alone")
COMPARISONS = (
    Comparison("DownsizeNet", "bilinear", "mIoU", "+0.6 (x0.45), +0.9 (x0.35)", headline=True),
    Comparison("DownsizeNet", "area", "mIoU"),
    Comparison("DownsizeNet", "antialiased", "mIoU", headline=True),
    Comparison("DownsizeNet, 4 x 4 taps", "DownsizeNet", "mIoU"),
    Comparison("DownsizeNet, 4 x 4 taps", "area", "mIoU", "+0.5 mAP"),
    Comparison("DownsizeNet, 4 x 4 taps", "bicubic", "mIoU", "+2.3 mAP"),
    Comparison("antialiased", "bilinear", "mIoU"),
    Comparison("texture alone", "bilinear", "mIoU", "-0.3 mAP", headline=True),
)
# Table 6, of DeepLabv3+, by the share of the size.
PAPER_SIZES = {0.55: "+0.1 (x0.55)", 0.45: "+0.6 (x0.45)", 0.35: "+0.9 (x0.35)"}
# Table 4, of RefineDet, less bilinear.
PAPER_LAYERS = {
    "DownsizeNet, 1 layer": "+0.3 mAP",
    "DownsizeNet, 2 layers": "+0.7 mAP",
    "DownsizeNet": "+0.9 mAP",
    "DownsizeNet, 4 layers": "+0.6 mAP",
    "DownsizeNet, 5 layers": "0.0 mAP",
}
TEXTURE_PAIRS = (
    ("DownsizeNet", "bilinear"),
    ("DownsizeNet", "antialiased"),
    ("DownsizeNet, 4 x 4 taps", "bicubic"),
    ("DownsizeNet, 4 x 4 taps", "area"),
    ("DownsizeNet, 4 x 4 taps", "DownsizeNet"),
    ("antialiased", "bilinear"),
)
# Table 2.
PAPER_HOSTS = {"fcn": "+0.5", "atrous": "+0.9", "strips": "+0.6"}


MEASURES = {"mIoU": lambda m: m["test"]["mIoU"]}


def page(preset: str) -> Page:
    """The experiment."""
    sections = [*methods(preset), *sizes(preset), *tasks(preset), *networks(preset)]
    return Page("downsizing", "Does DownsizeNet lose less than a plain resize?", SAYS, RAN, sections, FOUND)


def on_camvid(heading: str, setups: dict[str, Any], comparisons: Sequence[Comparison], text: str = "") -> Section:
    """Segmentation of CamVid."""
    return Section(heading, "camvid.jsonl", setups, MEASURES, comparisons, text)


def methods(preset: str) -> list[Section]:
    """All ways to resize, on photos and on generated images."""
    size = "{} x {}".format(*SEGMENTERS[preset].size)
    return [
        on_camvid(f"At {size}", resizers(preset, *NAMES), COMPARISONS),
        Section(
            f"Fine structures on 1/f textures, at {size}",
            "textures.jsonl",
            resizers(preset, *NAMES[:-1], source=1),
            MEASURES | {name: lambda m, i=i: m["test"]["classes"][i] for i, name in enumerate(textures.CLASSES)},
            [
                Comparison(better, worse, "mIoU", headline=worse in ("bilinear", "bicubic"))
                for better, worse in TEXTURE_PAIRS
            ],
            "Generated images (`experiments/textures.py`) of 240 x 180: cracks and wires of one or two pixels, and "
            "stripes of three to five pixels, which a plain resize to x0.4 turns into others.",
        ),
    ]


def sizes(preset: str) -> list[Section]:
    """Bilinear and DownsizeNet at other sizes, and trained longer."""
    base, steps = SEGMENTERS[preset], LONGER[preset]
    found = [
        on_camvid(
            f"At {size[0]} x {size[1]}, x{share}",
            resizers(preset, "bilinear", "DownsizeNet", size=size),
            [Comparison("DownsizeNet", "bilinear", "mIoU", PAPER_SIZES[share], headline=True)],
        )
        for size, share in zip(RESIZED[preset], PAPER_SIZES, strict=False)
    ]
    if steps is not None:
        found.append(
            on_camvid(
                f"{steps} steps instead of {base.steps}, at {base.size[0]} x {base.size[1]}",
                resizers(preset, "bilinear", "DownsizeNet", steps=steps),
                [Comparison("DownsizeNet", "bilinear", "mIoU", headline=True)],
            )
        )
    return found


def tasks(preset: str) -> list[Section]:
    """Detection, and a DownsizeNet that learned in another task."""
    return [
        Section(
            "Detection on generated scenes",
            "scenes.jsonl",
            detectors(preset, "bilinear", "uniform", "DownsizeNet", "DownsizeNet of segmentation"),
            {"AP": lambda m: m["AP"], "AP small": lambda m: m["small"]},
            [
                Comparison("DownsizeNet", "bilinear", "AP", "+0.2 to +0.9 mAP (table 1)", headline=True),
                Comparison("DownsizeNet", "bilinear", "AP small"),
                Comparison("DownsizeNet", "uniform", "AP", headline=True),
                Comparison("DownsizeNet", "uniform", "AP small"),
                Comparison("DownsizeNet of segmentation", "bilinear", "AP", "+0.1 to +0.5 (table 3)", headline=True),
            ],
            "The scenes and the detector of [detection](detection.md), at half size. `uniform` is antialiased. `of "
            "segmentation`: learned in the segmenter of CamVid above with the same seed, and used here as it is.",
        ),
        on_camvid(
            "Segmentation with a DownsizeNet of detection",
            resizers(preset, "bilinear", "DownsizeNet", "DownsizeNet of detection"),
            [Comparison("DownsizeNet of detection", "bilinear", "mIoU", "worse, no numbers", headline=True)],
            "The other way about: learned in the detector of generated scenes.",
        ),
    ]


def networks(preset: str) -> list[Section]:
    """Other segmenters, and numbers of layers."""
    size = "{} x {}".format(*SEGMENTERS[preset].size)
    hosts = {
        f"{name}, {host}": setup
        for host in PAPER_HOSTS
        for name, setup in resizers(preset, "bilinear", "DownsizeNet", host=host).items()
    }
    return [
        on_camvid(
            f"Other networks, at {size}",
            hosts,
            [Comparison(f"DownsizeNet, {x}", f"bilinear, {x}", "mIoU", paper) for x, paper in PAPER_HOSTS.items()],
            "Small networks in the manner of FCN-8s (fcn), DeepLabv3 (atrous: convolutions of several rates on the "
            "last map) and strip pooling (strips), with the same backbone.",
        ),
        on_camvid(
            f"Layers, at {size}",
            resizers(preset, "bilinear", *PAPER_LAYERS),
            [Comparison(name, "bilinear", "mIoU", paper) for name, paper in PAPER_LAYERS.items()],
        ),
    ]


if __name__ == "__main__":
    main(page)
