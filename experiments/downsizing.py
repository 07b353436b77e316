"""Does DownsizeNet lose less than a plain resize? `python experiments/downsizing.py --data FOLDER --preset small`."""

from __future__ import annotations

from command import main
from presets import resizers
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
# "texture alone" is run by the full preset.
NAMES = {"smoke": ("bilinear", "DownsizeNet"), "small": ("bilinear", "area", "antialiased", "DownsizeNet")}
COMPARISONS = (
    Comparison("DownsizeNet", "bilinear", "mIoU", "+0.6 (x0.45), +0.9 (x0.35)", headline=True),
    Comparison("DownsizeNet", "area", "mIoU", "+0.5 mAP (4 x 4 taps)"),
    Comparison("DownsizeNet", "antialiased", "mIoU", headline=True),
    Comparison("antialiased", "bilinear", "mIoU"),
    Comparison("texture alone", "bilinear", "mIoU", "-0.3 mAP"),
)


def page(preset: str) -> Page:
    """The experiment."""
    names = NAMES.get(preset, (*NAMES["small"], "texture alone"))
    setups = resizers(preset, *names)
    size = setups[names[0]].size
    section = Section(
        f"Segmentation of CamVid at {size[0]} x {size[1]}",
        "camvid.jsonl",
        setups,
        {"mIoU": lambda m: m["test"]["mIoU"]},
        [c for c in COMPARISONS if {c.better, c.worse} <= set(names)],
    )
    return Page("downsizing", "Does DownsizeNet lose less than a plain resize?", SAYS, RAN, [section], FOUND)


if __name__ == "__main__":
    main(page)
