"""Writes all pages from the kept runs, and one table of what was found: `python experiments/report.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import aerial
import command
import detection
import downsizing
import geometry
import latency
import registration
import result_page
import segmentation
import solar
import unzoom
from intervals import FEWEST
from presets import PRESETS
from result_page import Found, table

EXPERIMENTS = (registration, segmentation, detection, unzoom, downsizing, solar, aerial)
INDEX = """# Experiments

Do the papers' claims hold, and does what fastwarp adds to them matter? Each page says what the paper claims, what was
run, what was found beside the paper's number, and what does not agree. The trainings of the small preset are minutes
on one CPU core: they show directions, not what a large network would reach.

The rules: a difference is claimed (**bold**) only where the 95 % interval of the paired differences excludes zero;
pairs have the same seed, and so the same start and the same batches. The interval is over trainings, not over data:
there is one test split, looked at once. Where several differences are tested, one in twenty is bold by chance.
Hyperparameters are chosen on the validation split, uniform's as the others'. Every training is a line in
`experiments/results/`.

{summary}

Each experiment is one command, which trains what is missing and writes its page. CamVid is not part of the project;
any folder of its layout (`images/SPLIT/NAME.jpg`, `labels/SPLIT/NAME.png`, for train, val and test) will do, and
`python experiments/cityscapes.py CITYSCAPES FOLDER` writes one. Detection reads COCO's folders too. Give other data
folders of their own with `--results` and `--pages`, so that the runs are not taken for those of CamVid. The solar cells
and the aerial images are in packages from PyPI; `FOLDER` is `data` in them, and may be left out if they are installed.
`deepforest` asks for much that is not needed for its images: `pip install --no-deps deepforest`.

```
pip install -r experiments/requirements.txt
{commands}
python experiments/geometry.py
python experiments/latency.py
python experiments/report.py  # all pages again, from the kept runs
```

`--seeds 10` adds seeds to those that are there, `--part 1/2` and `--part 2/2` share the work between two processes,
`--preset full` is larger, `--checkpoints FOLDER` lets a killed training go on. A run that is kept is not done again.
`python experiments/objects.py FOLDER --split train --output train.json` writes the objects of CamVid's label maps as
COCO has them.

Not run yet: the full preset, and with it anything of the size of the papers' trainings; Cityscapes and COCO; detectors
with anchors, of two stages and with transformers behind DownsizeNet; solar cells at 160 and 130 pixels.
"""


def summary(found: list[Found]) -> str:
    """The headlines: a table."""
    rows, last = [], ""
    for one in found:
        if one.comparison.headline and one.difference.pairs >= FEWEST:
            title = "" if one.page.title == last else f"[{one.page.title}]({one.page.name}.md)"
            last = one.page.title
            paper = one.comparison.paper or "-"
            rows.append([title, one.section.heading, one.comparison.title, str(one.difference), paper])
    return table(["question", "where", "difference", "mean [95 % interval]", "the paper's"], rows, texts=3)


def main() -> None:
    """All pages of a preset."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--pages", type=Path, default=result_page.PAGES, help="folder of the pages")
    options = parser.parse_args()
    found: list[Found] = []
    for experiment in EXPERIMENTS:
        page = experiment.page(options.preset)
        found += result_page.write(page, {s.file: command.store(s.file).runs() for s in page.sections}, options.pages)
    for measured in (geometry, latency):
        if measured.RESULT.exists():
            measured.write(json.loads(measured.RESULT.read_text()))
    commands = [f"python experiments/{Path(e.__file__).stem}.py --data FOLDER" for e in EXPERIMENTS]
    content = {"summary": summary(found), "commands": "\n".join(commands)}
    (options.pages / "index.md").write_text(INDEX.format(**content))
    (options.pages / "summary.md").write_text(content["summary"] + "\n")


if __name__ == "__main__":
    main()
