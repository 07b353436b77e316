"""The command line: `fastwarp demo` and `fastwarp doctor`. A mistake of the user gets one line and exit code 2."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import fastwarp
from fastwarp.errors import FastwarpError

DEMO_PACKAGES = {"PIL": "pillow", "matplotlib": "matplotlib", "rich": "rich", "skimage": "scikit-image"}
"""Modules of the extra `demo`, and the packages they come in."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Without argparse's usage block: one line.
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the words after `fastwarp`; None takes those of the process.

    Returns:
        The exit code: 0, or 1 if `doctor` found something wrong, or 2 for a mistake in the arguments.
    """
    words = sys.argv[1:] if argv is None else argv
    # argparse takes "-5,0,9,9" for an option. With a space in front it is a value, and its own check answers.
    arguments = _parser().parse_args([" " + word if re.fullmatch(r"-[\d.,-]+", word) else word for word in words])
    try:
        return arguments.run(arguments)
    except FastwarpError as error:
        problem = str(error)
    except ModuleNotFoundError as error:
        package = DEMO_PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        problem = f"{package} is not installed: pip install 'fastwarp[demo]'"
    print(f"fastwarp {arguments.command}: error: {problem}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastwarp", description="Zoom and unzoom operators for vision networks.")
    parser.add_argument("--version", action="version", version=f"fastwarp {fastwarp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | doctor")

    demo = commands.add_parser(
        "demo",
        help="zoom and unzoom a photo: a picture, times beside plain torch, and errors",
        description="Zooms into boxes of a photo, runs a feature pyramid on the small image and unzooms its maps. "
        "Writes a picture, and prints times beside the same in plain torch and round-trip errors.",
    )
    demo.add_argument("--image", type=Path, metavar="PATH", help="a photo (default: one that comes with scikit-image)")
    demo.add_argument(
        "--boxes",
        type=_box,
        nargs="+",
        metavar="x1,y1,x2,y2",
        help="what to zoom into, in pixels of the photo (default: objects in the default photo, else the middle)",
    )
    demo.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the zoomed image (default: half the photo)"
    )
    demo.add_argument(
        "--warp", choices=("separable", "mesh"), default="separable", help="kind of warp (default: separable)"
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="of the picture (default: demo)")
    demo.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    demo.add_argument("--repeats", type=_count, default=20, metavar="N", help="of each timing (default: 20)")
    demo.add_argument("--threads", type=_count, default=2, metavar="N", help="CPU threads to time with (default: 2)")
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser(
        "doctor",
        help="versions, devices, kernels, and a self-check",
        description="Prints versions, devices, the kernels each device gets and why, and checks them against the "
        "float64 reference. Exit code 1 if a check fails.",
    )
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.set_defaults(run=_doctor)
    return parser


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(value) for value in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not four numbers x1,y1,x2,y2") from None
    return x1, y1, x2, y2


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not at least 1")
    return count


def _demo(arguments: argparse.Namespace) -> int:
    # Imported here: matplotlib, Pillow, rich and scikit-image are an extra, and doctor must work without them.
    from fastwarp import demo

    demo.run(
        image=arguments.image,
        boxes=arguments.boxes,
        size=tuple(arguments.size) if arguments.size else None,
        out=arguments.out,
        warp=arguments.warp,
        device=arguments.device,
        repeats=arguments.repeats,
        threads=arguments.threads,
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from fastwarp import doctor

    report = doctor.examine()
    print(json.dumps(report, indent=2) if arguments.json else doctor.text(report))
    return 0 if report["ok"] else 1
