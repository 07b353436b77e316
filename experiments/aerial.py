"""Does a zoom harm where objects are everywhere? `python experiments/aerial.py --preset small`."""

from __future__ import annotations

import dataclasses

from command import main
from presets import detectors
from result_page import Comparison, Page, Section

SAYS = """
LZU gains where objects are small in a known or predictable part of the image. It has no experiment on images whose
objects are everywhere and of one size. There a zoom has nothing to favour, and should gain nothing.
"""
RAN = """
A negative control: trees in two aerial images of the package `deepforest`, cut into tiles of 320 x 192 pixels, as large
as the scenes of [detection](detection.md), and detected at half size by the same detector with the same settings. 280
tiles of one image train, 24 tiles of the other test (`experiments/trees.py` has the rules; trees have a median side of
36 pixels). The fixed zoom is that of the mean density of the training tiles' trees; the adaptive one follows the trees
that a first pass with it detects, though there is no frame before.
"""
FOUND = """
As expected, nothing is gained: no difference is claimed. What was measured of the reason: trees are spread so evenly
that the fixed zoom is nearly none. Its magnification is 0.92 to 1.06 along both axes; down the generated scenes, which
have a horizon, it is 0.57 to 2.37. A fixed zoom turns itself off where objects are everywhere.

As a test of harm this is weak: the detector hardly carries over from the training image, a meadow with groups of trees,
to the test image, a forest. One training of uniform has an AP of 13.5 on the lowest fifth of the training image, which
it has not seen; on the other image AP is 2. A loss would have to be most of that to be told from noise.
"""
NAMES = ("uniform", "fixed", "adaptive")
SIZES = ("medium", "large")  # there are hardly any small trees


def page(preset: str) -> Page:
    """The experiment."""
    measures = {"AP": lambda m: m["AP"], "AP50": lambda m: m["AP50"]}
    measures |= {f"AP {size}": lambda m, size=size: m[size] for size in SIZES}
    setups = {name: dataclasses.replace(setup, data="aerial") for name, setup in detectors(preset, *NAMES).items()}
    comparisons = [Comparison(name, "uniform", one, headline=one == "AP") for name in NAMES[1:] for one in measures]
    section = Section("Trees in aerial images", "trees.jsonl", setups, measures, comparisons)
    return Page("aerial", "Does a zoom harm where objects are everywhere?", SAYS, RAN, [section], FOUND)


if __name__ == "__main__":
    main(page)
