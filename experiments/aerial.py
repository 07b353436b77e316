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
40 pixels). The fixed zoom is that of the mean density of the training tiles' trees; the adaptive one follows the trees
that a first pass with it detects, though there is no frame before.
"""
FOUND = """
Not run yet.
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
