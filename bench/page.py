"""Writes docs/performance.md, and the table of benchmarks in README.md, from the JSON in bench/results.

`make bench` runs it. `python bench/page.py --check` only says whether both are up to date: exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from report import OURS, is_peer, kept, losses, machine, title

ROOT = Path(__file__).resolve().parent.parent
RESULTS, README, PAGE = ROOT / "bench" / "results", ROOT / "README.md", ROOT / "docs" / "performance.md"
BETWEEN = re.compile(r"(<!-- written by bench/page.py -->\n).*?(<!-- to here -->\n)", re.DOTALL)

GRID_SAMPLE, REMAP = "`F.grid_sample`, grids ready", "`cv2.remap`, maps ready"
README_ROWS = (
    ("zoom 3x1200x1920 to 600x960", GRID_SAMPLE, "zoom[zoom-1-{}-float32-cpu]", "grid_sample"),
    ("the same", REMAP, "zoom[zoom-1-{}-float32-cpu]", "cv2.remap"),
    (
        "unzoom a pyramid of 256 channels, 75x120 to 5x8, forward and backward",
        GRID_SAMPLE,
        "unzoom_backward[1-{}-float32-cpu]",
        "grid_sample",
    ),
    ("saliency to unzoomed pyramid, a new warp each time", "plain torch", "adaptive[1-{}-cpu]", "plain torch"),
    ("invert a mesh of 31x51 at 600x960", "plain torch", "mesh_inverse[smooth-1-bilinear-cpu]", "plain torch"),
    ("unzoom one map of 5x8: the call itself is what costs", GRID_SAMPLE, "unzoom_level[5x8-{}]", "grid_sample"),
)
"""What is done, what else does it, the benchmark with {} for the layout, the contender in it."""

MORE_ROWS = (
    ("zoom 3x1024x2048 to 256x256", REMAP, "zoom[cityscapes-1-{}-float32-cpu]", "cv2.remap"),
    ("a camera's bytes to a normalised 600x960", "`cv2.remap`, torch", "camera[zoom-float32-cpu]", "cv2.remap + torch"),
    ("unzoom of the pyramid, forward", GRID_SAMPLE, "unzoom[1-{}-float32-cpu]", "grid_sample"),
    ("the same, batch 8", GRID_SAMPLE, "unzoom[8-{}-float32-cpu]", "grid_sample"),
    ("uniform zoom, antialiased", "`F.interpolate`", "antialias_uniform[{}-float32-cpu]", "F.interpolate"),
    ("100 boxes to knots", "plain torch", "boxes_to_knots[1-cpu]", "plain torch"),
    ("mesh: unzoom of the pyramid, inverse included", GRID_SAMPLE, "mesh_unzoom[1-{}-cpu]", "grid_sample"),
    ("mesh: zoom 3x1200x1920 to 600x960", GRID_SAMPLE, "mesh_zoom[{}-cpu]", "grid_sample"),
    ("DownsizeNet, 3x1200x1920 to 600x960", "plain torch", "downsize[1x3x1200x1920-600x960-6.0-cpu]", "plain torch"),
    ("the same, forward and backward", "plain torch", "downsize_backward[1x3x1200x1920-600x960-cpu]", "plain torch"),
)

SMALLEST = ("unzoom_level[5x8-contiguous]", "mesh_unzoom_level[5x8-cpu]")

INTRODUCTION = """# Performance

<!-- Written by bench/page.py from bench/results: change these. -->

Every number is *time of the peer / time of fastwarp*. 2 means that fastwarp takes half the time; below 1, in bold, it
is slower. Contenders take turns, in rounds; a number is the median of the rounds, so that other work on the machine
disturbs all alike. Nothing is timed before the results agree. Peers have their grids and maps made beforehand, fastwarp
makes its own in each call. `bench/README.md` says what each peer does.

`make bench` measures this on your machine, `make gpu` on one with a GPU.
"""

ENDING = """## What limits it

* A call costs {:.0f} us whatever the size, a mesh with its inverse {:.0f} us: torch's dispatch and the checks of the
  arguments. Small maps lose by that, so unzoom all levels of a pyramid in one call.
* First calls find the caches as other work left them, and take longer. The first call ever also compiles: see
  [Speed](speed.md).
* Large batches are bound by memory, DownsizeNet by multiplication.
"""


def main() -> None:
    """Writes both, or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    rows = "\n".join([*_conditions(runs["cpu"]), "", *_table(runs["cpu"], README_ROWS)])
    readme = BETWEEN.sub(lambda found: f"{found[1]}{rows}\n{found[2]}", README.read_text())
    texts = {README: readme, PAGE: "\n".join(_page(runs)).rstrip() + "\n"}
    for path, text in texts.items():
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path.relative_to(ROOT)} is not what bench/results says: run python bench/page.py")


def _page(runs: dict[str, Any]) -> Iterator[str]:
    yield INTRODUCTION
    yield "## In short\n"
    yield from _conditions(runs["cpu"])
    yield ""
    yield from _table(runs["cpu"], README_ROWS + MORE_ROWS)
    yield ""
    yield from _attached(runs["attach"])
    least = [_contenders(runs["cpu"])[case][OURS]["median"] for case in SMALLEST]
    yield ENDING.format(*(1e6 * time for time in least))
    for stem, run in runs.items():
        cases = _cases(run)
        if cases:
            yield f"## All of {stem}.json\n"
            yield "\n".join(line for line in machine(run, cases) if not line.startswith("# "))
            yield from ("#" + line if line.startswith("## ") else line for line in losses(cases))
            yield from ("#" + line if line.startswith("## ") else line for line in kept(cases))
            yield from _all(cases)


def _cases(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [case for case in run.get("benchmarks", ()) if "contenders" in case.get("extra_info", {})]


def _contenders(run: dict[str, Any]) -> dict[str, Any]:
    return {title(case): case["extra_info"]["contenders"] for case in _cases(run)}


def _conditions(run: dict[str, Any]) -> Iterator[str]:
    """One sentence: machine, versions, load."""
    about, loads = run["machine_info"], [case["extra_info"]["load"] for case in _cases(run)]
    versions = {key: about["versions"][key].partition("+")[0] for key in ("torch", "opencv-python-headless", "numba")}
    torch, opencv, numba = versions.values()
    yield f"{about['threads']} threads on {about['cpu']['brand_raw']}, {about['cores']} cores"
    yield f"(load {min(loads)} to {max(loads)}), torch {torch}, OpenCV {opencv}, numba {numba}, float32,"
    yield f"{run['datetime'][:10]}:"


def _table(run: dict[str, Any], rows: Sequence[tuple[str, str, str, str]]) -> Iterator[str]:
    times = _contenders(run)
    yield "| work | peer | contiguous | channels_last |\n|---|---|---:|---:|"
    for work, peer, case, contender in rows:
        ratios = []
        for layout in ("contiguous", "channels_last"):
            found = times.get(case.format(layout), {}) if "{}" in case or layout == "contiguous" else {}
            ratios.append(_ratio(found[contender]["ratio"]) if contender in found else "")
        if not any(ratios):
            raise KeyError(f"no result of {contender} in {case}")
        yield f"| {work} | {peer} | {' | '.join(ratios)} |"


def _ratio(value: float) -> str:
    text = f"{value:.1f}" if value < 10 else f"{value:.0f}"
    return text if value >= 1 else f"**{text}**"


def _attached(run: dict[str, Any]) -> Iterator[str]:
    about = run["about"]
    yield "## Inside a network\n"
    yield (
        "What `fastwarp.attach` adds to one pass of RetinaNet-R50-FPN: the time in its hooks, medians of "
        f"{run['rounds']} passes ({about['processor']}, {about['threads']} threads, torch {about['torch']}):\n"
    )
    kinds = list(next(iter(run["results"].values()))["hooks_ms"])
    yield f"| image | plain | {' | '.join(kinds)} |\n|---|---:|" + "---:|" * len(kinds)
    for size, result in run["results"].items():
        plain = result["plain_ms"]
        added = [f"{ms:.1f} ms, {100 * ms / plain:.1f} %" for ms in result["hooks_ms"].values()]
        yield f"| {size} | {plain:.0f} ms | {' | '.join(added)} |"
    yield ""


def _all(cases: list[dict[str, Any]]) -> Iterator[str]:
    yield "### Times\n"
    yield (
        "*ms*: of fastwarp. *ratio*: with the quartiles of the rounds. *first*: the ratio of first calls. *zoom* "
        "is 3x1200x1920 to 600x960, *nuscenes* 3x900x1600 to 450x800, *cityscapes* 3x1024x2048 to 256x256. Bold ratios "
        "are losses; contenders that do something else are there for scale.\n"
    )
    yield "| case | ms | against | ratio | first |\n|---|---:|---|---:|---:|"
    for case in cases:
        info = case["extra_info"]
        for contender, times in info["contenders"].items():
            if contender in (OURS, "copy"):
                continue
            ours = f"{title(case)} | {1e3 * info['contenders'][OURS]['median']:.3f}"
            ratio = f"{times['ratio']:.2f} ({times['ratio_low']:.2f} to {times['ratio_high']:.2f})"
            first = f"{info['first_calls'][contender]['ratio']:.2f}" if info["first_calls"] else ""
            slower = is_peer(info, contender) and times["ratio"] < 1
            yield f"| {ours} | {contender} | {f'**{ratio}**' if slower else ratio} | {first} |"
    yield ""


if __name__ == "__main__":
    main()
