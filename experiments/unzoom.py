"""Is a less destructive unzoom worth it? `python experiments/unzoom.py --data FOLDER --preset small`."""

from __future__ import annotations

from command import main
from presets import segmenters
from result_page import Comparison, Page, Section

SAYS = """
LZU zooms and unzooms by plain bilinear sampling, and asks for "alternatives to the 'unzoom' formulation that are
perhaps less destructive than simple resampling of features" (section 6).
"""
RAN = """
Segmentation of CamVid with and without `antialias=True`, which averages over what a target covers, in zoom, in unzoom
and in both. Uniform resizing has the same choice. "logits unzoomed" leaves the features zoomed, up to the logits,
which are sampled where the labels' pixels are in the zoomed image: nothing is resampled twice, and no cell of the
result is larger than a pixel. "fixed" and "uniform" alone average in the zoom, as on the other pages.
"""
FOUND = """
No gain is claimed, and no loss. Averaging in the zoom has a lower mean than plain sampling, with a warp and without;
averaging in the unzoom of a plain zoom has one, too. In the unzoom after an antialiased zoom it is ahead in the mean,
and so are logits that are unzoomed to the labels' size instead of features, each by less than the interval. As far as
five seeds can tell, resampling features is not what keeps a zoom from helping here.
"""
NAMES = (
    "uniform, plain",
    "uniform",
    "fixed, plain",
    "fixed",
    "fixed, antialiased unzoom",
    "fixed, both antialiased",
    "fixed, logits unzoomed",
)
PAIRS = (
    ("uniform", "uniform, plain"),
    ("fixed, plain", "uniform, plain"),
    ("fixed", "uniform"),
    ("fixed", "fixed, plain"),
    ("fixed, antialiased unzoom", "fixed, plain"),
    ("fixed, both antialiased", "fixed"),
    ("fixed, logits unzoomed", "fixed"),
    ("fixed, logits unzoomed", "uniform"),
)
HEADLINES = (PAIRS[3], PAIRS[5], PAIRS[6], PAIRS[7])


def page(preset: str) -> Page:
    """The experiment."""
    section = Section(
        "Segmentation of CamVid",
        "camvid.jsonl",
        segmenters(preset, *NAMES),
        {"mIoU": lambda m: m["test"]["mIoU"]},
        [Comparison(*pair, "mIoU", headline=pair in HEADLINES) for pair in PAIRS],
    )
    return Page("unzoom", "Is a less destructive unzoom worth it?", SAYS, RAN, [section], FOUND)


if __name__ == "__main__":
    main(page)
