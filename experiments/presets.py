"""What the experiments train: set-ups by name, for each preset. Experiments that share a set-up share its runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import classifier
import detector
import segmenter

PRESETS = ("smoke", "small", "full")

# Learning rate, fwhm and edge: chosen on the validation split (results/tuning.jsonl). Steps: what there was time for.
SEGMENTERS = {
    "smoke": segmenter.Setup((32, 48), steps=3, rate=5e-3, edge=50.0, batch=2, width=16),
    "small": segmenter.Setup((72, 96), steps=400, rate=5e-3, edge=50.0, source=2),
    "full": segmenter.Setup((180, 240), steps=8000, rate=5e-3, edge=50.0, batch=16, width=64),
}
OTHER_SIZES = {"smoke": [], "small": [(48, 64), (120, 160)], "full": [(60, 80), (96, 128), (240, 320)]}
# Steps of the experiments that are repeated with a longer training; the full preset's are long already.
LONGER = {"smoke": None, "small": 1200, "full": None}
# Of detection: a quarter and three quarters of the source, and all of it.
OTHER_SCALES = {
    "smoke": [],
    "small": [(48, 80), (144, 240), (192, 320)],
    "full": [(96, 160), (288, 480), (384, 640)],
}
# Generated textures for training and test, and their size.
TEXTURES = {
    "smoke": ((8, 4), (64, 96)),
    "small": ((300, 100), (180, 240)),
    "full": ((2000, 500), (360, 480)),
}
# Of the fixed zoom: a part of the grid of LZU table 6.
AMPLITUDES, FWHMS = (1.0, 5.0, 50.0), (4.0, 10.0, 22.0)
# DownsizeNet's: x0.55, x0.45 and x0.35 of what is made small (table 6).
RESIZED = {"smoke": [], "small": [(100, 132), (80, 108), (64, 84)], "full": [(198, 264), (162, 216), (126, 168)]}
PITCH = 0.15  # of the height of the image, where the horizon moves
# The learning rate: one of uniform's two best on validation scenes (results/tuning_scenes.jsonl). The warp: not tuned.
DETECTORS = {
    "smoke": detector.Setup((64, 96), steps=3, rate=5e-3, source=(96, 160), batch=2, length=6, tests=4),
    "small": detector.Setup((96, 160), steps=300, rate=5e-3),
    "full": detector.Setup((192, 320), steps=6000, rate=5e-3, source=(384, 640), length=2000, tests=1000),
}

# Half the size of the published frames, and half of that for the network; the rest as for scenes.
CAMVID = {
    "smoke": {"size": (16, 24), "source": (24, 32)},
    "small": {"size": (90, 120), "source": (180, 240), "steps": 1000},
    "full": {"size": (180, 240), "source": (360, 480)},
}


def segmenters(preset: str, *names: str, **others: Any) -> dict[str, segmenter.Setup]:
    """Set-ups of segmentation by name; `others` are values of all of them."""
    base = dataclasses.replace(SEGMENTERS[preset], **others)
    changes = {
        "uniform": {},
        "fixed": {"warp": "fixed"},
        "adaptive": {"warp": "adaptive"},
        "learned": {"warp": "learned"},
        "fixed, own grid": {"warp": "fixed", "registered": False},
        "adaptive, own grid": {"warp": "adaptive", "registered": False},
        "fixed, plain": {"warp": "fixed", "antialias": False},
        "fixed, antialiased unzoom": {"warp": "fixed", "antialias": False, "unzoom_antialias": True},
        "fixed, both antialiased": {"warp": "fixed", "unzoom_antialias": True},
        "fixed, logits unzoomed": {"warp": "fixed", "level": "logits"},
        "learned, logits unzoomed": {"warp": "learned", "level": "logits"},
        "adaptive, logits unzoomed": {"warp": "adaptive", "level": "logits"},
        "trained": {"warp": "trained"},
        "fixed, DownsizeNet": {"warp": "fixed", "resize": "downsize"},
        "uniform, plain": {"antialias": False},
    }
    return {name: dataclasses.replace(base, **changes[name]) for name in names}


def resizers(preset: str, *names: str, **others: Any) -> dict[str, segmenter.Setup]:
    """Set-ups of segmentation whose images are made small without a warp; `others` are values of all of them."""
    base = dataclasses.replace(SEGMENTERS[preset], **others)
    changes = {
        "bilinear": {"resize": "bilinear"},
        "bicubic": {"resize": "bicubic"},
        "area": {"resize": "area"},
        "antialiased": {},
        "DownsizeNet": {"resize": "downsize"},
        "DownsizeNet, 4 x 4 taps": {"resize": "downsize", "taps": "bicubic"},
        "DownsizeNet of detection": {"resize": "downsize", "learned": "detection"},
        "texture alone": {"resize": "texture"},
        "DownsizeNet, 1 layer": {"resize": "downsize", "layers": 1},
        **{f"DownsizeNet, {n} layers": {"resize": "downsize", "layers": n} for n in (2, 4, 5)},
    }
    return {name: dataclasses.replace(base, **changes[name]) for name in names}


def detectors(preset: str, *names: str, data: str = "scenes", **others: Any) -> dict[str, detector.Setup]:
    """Set-ups of detection by name; `others` are values of all of them."""
    base = dataclasses.replace(DETECTORS[preset], **(CAMVID[preset] if data == "camvid" else {}))
    base = dataclasses.replace(base, data=data, **others)
    changes = {
        "uniform": {},
        "fixed": {"warp": "fixed"},
        "adaptive": {"warp": "adaptive"},
        "fixed, own grid": {"warp": "fixed", "registered": False},
        "adaptive, own grid": {"warp": "adaptive", "registered": False},
        "adaptive, cascade": {"warp": "adaptive", "cascade": True},
        "learned": {"warp": "learned"},
        "nonseparable": {"warp": "nonseparable"},
        "fixed, boxes unzoomed": {"warp": "fixed", "unzoom": False},
        "bilinear": {"resize": "bilinear"},
        "DownsizeNet": {"resize": "downsize"},
        "DownsizeNet of segmentation": {"resize": "downsize", "learned": "segmentation"},
    }
    return {name: dataclasses.replace(base, **changes[name]) for name in names}


# The learning rate: chosen on the validation split (results/tuning_solar.jsonl). Steps: what there was time for.
CLASSIFIERS = {
    "smoke": classifier.Setup((12, 12), steps=2, rate=2e-3, batch=2, width=8),
    "small": classifier.Setup((100, 100), steps=500, rate=1e-3),
    "full": classifier.Setup((100, 100), steps=8000, rate=1e-3, batch=32, width=64),
}


def classifiers(preset: str, *names: str, size: tuple[int, int] | None = None) -> dict[str, classifier.Setup]:
    """Set-ups of classification by name."""
    base = CLASSIFIERS[preset]
    if size is not None:
        base = dataclasses.replace(base, size=size)
    changes = {
        "DownsizeNet": {"resize": "downsize"},
        "DownsizeNet, 4 x 4": {"resize": "downsize", "taps": "bicubic"},
    }
    return {name: dataclasses.replace(base, **changes.get(name, {"resize": name})) for name in names}
