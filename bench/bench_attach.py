"""What `fastwarp.attach` adds to RetinaNet-R50-FPN: the time inside its hooks, beside that of the plain forward pass.

`fastwarp bench` times any network so. Run this in the environment of `make test-integrations`, which it makes:

    OMP_NUM_THREADS=2 .venv-integrations/bin/python bench/bench_attach.py --out bench/results/attach.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch

import fastwarp
from fastwarp.attaching.measure import KINDS, measure, runner, table

SIZES = ((600, 960), (320, 512))
ROOT = Path(__file__).resolve().parent.parent


def processor() -> str:
    """Its name, where Linux tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sys.path.insert(0, str(ROOT / "tests" / "integrations"))
    import shims  # noqa: F401  (torchvision beside a torch for CPUs)
    from torchvision.models.detection import retinanet_resnet50_fpn

    results = {}
    for size in SIZES:
        # It finds nothing: suppression would be noise.
        model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, score_thresh=0.99).eval()
        run = runner(model, torch.rand(1, 3, *size))
        medians = measure(model, run, {kind: make(size) for kind, make in KINDS.items()}, options.rounds)
        print(table(f"RetinaNet-R50-FPN at {size[0]}x{size[1]}", medians), flush=True)
        plain = medians.pop("plain")
        results[f"{size[0]}x{size[1]}"] = {"plain_ms": plain, "hooks_ms": medians}
    if options.out is not None:
        versions = {"torch": torch.__version__, "fastwarp": fastwarp.__version__, "python": platform.python_version()}
        about = {"processor": processor(), "threads": options.threads, **versions}
        text = json.dumps({"about": about, "rounds": options.rounds, "results": results}, indent=1)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
