"""Does exact registration matter? `python experiments/registration.py --data FOLDER --preset small`."""

from __future__ import annotations

from command import main
from presets import detectors, segmenters
from result_page import Comparison, Page, Section

SAYS = """
Nothing: LZU (eq. 6-7) and its release unzoom each map by its own grid, cell i of n at i / (n - 1) of the width. A
strided network has cell i at pixel `stride * i`, up to a cell beside that (see [registration](../registration.md)).
"""
RAN = """
The trainings of [segmentation](segmentation.md) and [detection](detection.md) twice: with unzoom by each map's own
grid, and with exact strides and phase. All else is equal: seeds, batches, warps, the places of logits and anchors.
Fixed warps are those of the training set; adaptive ones follow the boundaries of a first pass, or the detections of a
simulated previous frame. "Other unzoom" is the same trained network with the other unzoom in its place, without
further training: that is what attaching to a published checkpoint does.
"""
FOUND = """
A network that is trained with either unzoom does as well with the other's as far as these seeds can tell: the
differences of two trainings are not claimed, for segmentation or detection. Detection is trained so briefly that its
AP varies by several points between seeds: a difference of a point or two would not be seen.

What is claimed: the unzoom must stay the one of the training. Exchanging them without further training costs a
detector a quarter of its AP or more, in either direction. A network learns where its own unzoom puts things, half a
cell at worst (see [geometry](geometry.md)), and boxes need that. So a checkpoint that was trained with the release's
unzoom is to be run with each map's own grid (no `image_size=`), and one that was trained registered is to be run
registered. Segmentation hardly notices: its differences are a tenth of a point, for a milder warp whose labels are
areas rather than edges.

Around a detector that was trained without any zoom, registration is better than the own grid: there nothing has been
learned that could make up for what is off. Both are worse than no zoom: a zoom without training loses, as others have
found.
"""
OWN = "own grid"
OTHER = "other unzoom"


def comparisons(*measures: str, swaps: bool) -> list[Comparison]:
    """Both trained, then both networks with the unzoom that they were not trained with: headlines if `swaps`."""
    found = [
        Comparison(name, f"{name}, {OWN}", one, headline=one == measures[0])
        for name in ("fixed", "adaptive")
        for one in measures
    ]
    for name in ("fixed", f"fixed, {OWN}", "adaptive", f"adaptive, {OWN}"):
        found.append(Comparison(name, name, f"{measures[0]}, {OTHER}", "", measures[0], headline=swaps))
    return found


def page(preset: str) -> Page:
    """The experiment."""
    names = [name for pair in ("fixed", "adaptive") for name in (pair, f"{pair}, {OWN}")]
    sections = [
        Section(
            "Segmentation of CamVid",
            "camvid.jsonl",
            segmenters(preset, *names),
            {"mIoU": lambda m: m["test"]["mIoU"], f"mIoU, {OTHER}": lambda m: m["test"].get("swapped")},
            comparisons("mIoU", swaps=False),
        ),
        Section(
            "Detection on generated scenes",
            "scenes.jsonl",
            detectors(preset, *names),
            {
                "AP": lambda m: m["AP"],
                "AP50": lambda m: m["AP50"],
                "AP75": lambda m: m["AP75"],
                "AP small": lambda m: m["small"],
                f"AP, {OTHER}": lambda m: m["swapped"]["AP"],
            },
            comparisons("AP", "AP50", "AP75", "AP small", swaps=True),
        ),
        Section(
            "A zoom around a detector that was trained without",
            "scenes.jsonl",
            detectors(preset, "uniform"),
            {
                "AP": lambda m: m["AP"],
                "AP, zoomed": lambda m: m.get("plugged", {}).get("AP"),
                f"AP, zoomed, {OWN}": lambda m: m.get("plugged, own grid", {}).get("AP"),
            },
            [
                Comparison("uniform", "uniform", "AP, zoomed", "", "AP", headline=True),
                Comparison("uniform", "uniform", f"AP, zoomed, {OWN}", "", "AP"),
                Comparison("uniform", "uniform", "AP, zoomed", "", f"AP, zoomed, {OWN}", headline=True),
            ],
            "The fixed zoom and unzoom of `fixed`, without further training.",
        ),
    ]
    return Page("registration", "Does it matter where unzoom takes cells to be?", SAYS, RAN, sections, FOUND)


if __name__ == "__main__":
    main(page)
