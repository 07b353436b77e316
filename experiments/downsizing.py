"""Does DownsizeNet lose less than a plain resize? `python experiments/downsizing.py --data FOLDER --preset small`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
the size below, and segmented. `antialiased` is a triangle filter as wide as the ratio. DownsizeNet has 3 layers of 16
channels and 2 x 2 taps, as the paper mostly, and learns together with the network.
"""
FOUND = """
DownsizeNet has the highest mean, by as much as in the paper: between 0.4 and 0.7 mIoU over the others, at x0.4. No
interval excludes zero: the seeds of one method lie as far apart (a standard deviation of 0.7 to 1.1) as the methods, so
five trainings neither confirm nor refute a gain of that size. The paper has one training of each. Averaging alone gains
nothing over bilinear here.
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
# Table 2.
PAPER_HOSTS = {"fcn": "+0.5", "atrous": "+0.9", "strips": "+0.6"}


def page(preset: str) -> Page:
    """The experiment."""
    measures = {"mIoU": lambda m: m["test"]["mIoU"]}
    base = SEGMENTERS[preset]

    def section(heading: str, setups: dict[str, Any], comparisons: Sequence[Comparison]) -> Section:
        return Section(heading, "camvid.jsonl", setups, measures, comparisons)

    sections = [
        section(f"At {base.size[0]} x {base.size[1]}", resizers(preset, *NAMES), COMPARISONS),
        *(
            section(
                f"At {size[0]} x {size[1]}, x{share}",
                resizers(preset, "bilinear", "DownsizeNet", size=size),
                [Comparison("DownsizeNet", "bilinear", "mIoU", PAPER_SIZES[share], headline=True)],
            )
            for size, share in zip(RESIZED[preset], PAPER_SIZES, strict=False)
        ),
        section(
            f"Layers, at {base.size[0]} x {base.size[1]}",
            resizers(preset, "bilinear", *PAPER_LAYERS),
            [Comparison(name, "bilinear", "mIoU", paper) for name, paper in PAPER_LAYERS.items()],
        ),
    ]
    if LONGER[preset] is not None:
        sections.append(
            section(
                f"{LONGER[preset]} steps instead of {base.steps}, at {base.size[0]} x {base.size[1]}",
                resizers(preset, "bilinear", "DownsizeNet", steps=LONGER[preset]),
                [Comparison("DownsizeNet", "bilinear", "mIoU", headline=True)],
            )
        )
    hosts = {
        f"{name}, {host}": setup
        for host in PAPER_HOSTS
        for name, setup in resizers(preset, "bilinear", "DownsizeNet", host=host).items()
    }
    sections += [
        Section(
            f"Other networks, at {base.size[0]} x {base.size[1]}",
            "camvid.jsonl",
            hosts,
            measures,
            [Comparison(f"DownsizeNet, {x}", f"bilinear, {x}", "mIoU", paper) for x, paper in PAPER_HOSTS.items()],
            "Small networks in the manner of FCN-8s (fcn), DeepLabv3 (atrous: convolutions of several rates on the "
            "last map) and strip pooling (strips), with the same backbone.",
        ),
        Section(
            "Detection on generated scenes",
            "scenes.jsonl",
            detectors(preset, "bilinear", "uniform", "DownsizeNet", "DownsizeNet of segmentation"),
            {"AP": lambda m: m["AP"], "AP small": lambda m: m["small"]},
            [
                *(
                    Comparison("DownsizeNet", worse, one, paper if one == "AP" else "", headline=one == "AP")
                    for worse, paper in (("bilinear", "+0.2 to +0.9 mAP (table 1)"), ("uniform", ""))
                    for one in ("AP", "AP small")
                ),
                Comparison(
                    "DownsizeNet of segmentation", "bilinear", "AP", "+0.1 to +0.5 mAP (table 3)", headline=True
                ),
            ],
            "The scenes and the detector of [detection](detection.md), at half size. `uniform` is antialiased. `of "
            "segmentation`: learned in the segmenter of CamVid above with the same seed, and used here as it is.",
        ),
        Section(
            "Segmentation with a DownsizeNet of detection",
            "camvid.jsonl",
            resizers(preset, "bilinear", "DownsizeNet", "DownsizeNet of detection"),
            measures,
            [Comparison("DownsizeNet of detection", "bilinear", "mIoU", "worse, no numbers", headline=True)],
            "The other way about: learned in the detector of generated scenes.",
        ),
    ]
    return Page("downsizing", "Does DownsizeNet lose less than a plain resize?", SAYS, RAN, sections, FOUND)


if __name__ == "__main__":
    main(page)
