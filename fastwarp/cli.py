"""The command line of fastwarp. A mistake of the user gets one line and exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import fastwarp
from fastwarp import _compiling
from fastwarp._files import shown
from fastwarp.errors import FastwarpError

EXTRA_PACKAGES = {
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
    "skimage": "scikit-image",
}
"""Modules of the extras `demo` and `saliency`, which have the names of the commands, and the packages they come in."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Without argparse's usage block: one line.
        self.exit(2, f"{self.prog}: error: {shown(message)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the words after `fastwarp`; None takes those of the process.

    Returns:
        The exit code: 0, or 1 if `doctor` found something wrong, 2 for a mistake in the arguments or files and for what
        cannot be written, 130 for Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows less than UTF-8 gets escapes, not an exception
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    # argparse takes "-5,0,9,9" for an option. With a space in front it is a value, and its own check answers.
    arguments = _parser().parse_args([" " + word if re.fullmatch(r"-[\d.,-]+", word) else word for word in words])
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()  # the last chance to learn that it cannot be written
        return code
    except FastwarpError as error:
        problem = str(error)
    except KeyboardInterrupt:
        print(f"fastwarp {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except MemoryError as error:
        problem = f"not enough memory: {error}" if str(error) else "not enough memory"
    except OSError as error:  # files are named where they are read and written: this is the output
        _abandon_output()
        problem = f"cannot write: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    except ModuleNotFoundError as error:
        package = EXTRA_PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        problem = f"{package} is not installed: pip install 'fastwarp[{arguments.command}]'"
    print(f"fastwarp {arguments.command}: error: {shown(problem)}", file=sys.stderr)
    return 2


def _abandon_output() -> None:
    """Drops what is still to be written to standard output: Python would try again, and complain, at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastwarp", description="Zoom and unzoom operators for vision networks.")
    parser.add_argument("--version", action="version", version=f"fastwarp {fastwarp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | doctor | warmup | saliency | bench")

    demo = commands.add_parser(
        "demo",
        help="zoom and unzoom a photo: a picture, times beside plain torch, and errors",
        description="Zooms into boxes of a photo, runs a feature pyramid on the small image and unzooms its maps; or "
        "downsizes the photo by DownsizeNet. Writes a picture, and prints times beside the same in plain torch and "
        "errors.",
    )
    demo.add_argument("--downsize", action="store_true", help="downsize the photo by DownsizeNet, trained on it")
    demo.add_argument(
        "--model",
        metavar="NAME",
        help="zoom inside a network of torchvision or transformers, see fastwarp bench, and print what that costs",
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
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="of the small image (default: half the photo, with --model up to a multiple of 32; with --downsize 0.35)",
    )
    demo.add_argument("--warp", choices=("separable", "mesh"), help="kind of warp (default: separable)")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="of the picture (default: demo)")
    demo.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    demo.add_argument("--repeats", type=_count, metavar="N", help="of each timing (default: 20, with --model 5)")
    demo.add_argument("--threads", type=_count, default=2, metavar="N", help="CPU threads to time with (default: 2)")
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser(
        "doctor",
        help="versions, devices, kernels, and a self-check",
        description="Prints versions, devices, the kernels each device gets and why, and checks them against the "
        "float64 reference; says what is still to be compiled, and how long that takes. Exit code 1 if a check fails.",
    )
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.set_defaults(run=_doctor)
    _add_warmup(commands)
    _add_saliency(commands)

    bench = commands.add_parser(
        "bench",
        help="milliseconds and percent that a zoom adds to a network",
        description="Times a network of an installed framework, and what fastwarp.attach adds to it: the time inside "
        "its hooks, in turns with the plain network.",
    )
    bench.add_argument(
        "model",
        metavar="MODEL",
        help="dotted name of a class, or of a function without arguments, that makes a network which fastwarp.attach "
        "knows: torchvision.models.detection.retinanet_resnet50_fpn",
    )
    bench.add_argument("--size", type=_size, default=(600, 960), metavar="HxW", help="of the image (default: 600x960)")
    kinds = ("fixed", "adaptive", "learned")
    bench.add_argument("--saliency", choices=kinds, nargs="+", default=kinds, help="kinds of it (default: all)")
    bench.add_argument("--rounds", type=_count, default=20, metavar="N", help="of each (default: 20)")
    bench.add_argument("--threads", type=_count, default=2, metavar="N", help="CPU threads to time with (default: 2)")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    bench.set_defaults(run=_bench)
    return parser


def _add_warmup(commands: argparse._SubParsersAction) -> None:
    warmup = commands.add_parser(
        "warmup",
        help="compile the kernels before they are needed",
        description="Compiles every kernel that images of the given dtypes use, and keeps them on disk, so that no "
        "first call waits for it.",
    )
    dtypes = ("float32", "float16", "bfloat16", "float64", "uint8")
    warmup.add_argument("--dtype", choices=dtypes, nargs="+", default=["float32"], help="of images (default: float32)")
    warmup.add_argument("--forward", action="store_true", help="leave out the kernels of the backward pass")
    warmup.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    warmup.add_argument(
        "--processes", type=int, metavar="N", help="that compile for CPUs at a time (default: as torch has threads)"
    )
    warmup.set_defaults(run=_warmup)


def _add_saliency(commands: argparse._SubParsersAction) -> None:
    saliency = commands.add_parser(
        "saliency",
        help="a data set's annotations to the saliency of a fixed warp",
        description="Reduces the annotations of a data set to a prior: the mean of its images' saliency maps.",
    )
    kinds = saliency.add_subparsers(dest="kind", required=True, metavar="coco | cityscapes | nuscenes | show")
    coco = kinds.add_parser(
        "coco",
        help="boxes in COCO's JSON format: Argoverse-HD, BDD100K, ...",
        description="The mean of the box densities of all images that have boxes, from a file in COCO's JSON format.",
    )
    coco.add_argument("file", type=Path, metavar="annotations.json")
    _add_boxes(coco, (31, 51))
    coco.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="that images and boxes are resized to; needed if images have several sizes or the file tells none",
    )
    coco.add_argument(
        "--clip", action="store_true", help="cut boxes that reach past their image, instead of refusing the file"
    )
    cityscapes = kinds.add_parser(
        "cityscapes",
        help="boundaries in gtFine/<split>/<city>/*_gtFine_labelIds.png",
        description="The mean density of the boundaries between classes in the label images of Cityscapes.",
    )
    cityscapes.add_argument("folder", type=Path, metavar="DIR", help="that holds gtFine")
    cityscapes.add_argument("--split", default="train", metavar="NAME", help="train, val or test (default: train)")
    cityscapes.add_argument("--edge", type=float, default=200.0, metavar="X", help="of a boundary (default: 200)")
    cityscapes.add_argument("--background", type=float, default=1.0, metavar="X", help="of the rest (default: 1)")
    _add_output(cityscapes, (45, 45))
    nuscenes = kinds.add_parser(
        "nuscenes",
        help="3-D boxes in the tables of nuScenes, projected into its cameras",
        description="The mean of the box densities of all key frames of the cameras, from 3-D boxes projected there.",
    )
    nuscenes.add_argument("folder", type=Path, metavar="DIR", help="that holds the folder of tables")
    nuscenes.add_argument(
        "--version", default="v1.0-mini", metavar="NAME", help="of the tables: their folder (default: v1.0-mini)"
    )
    nuscenes.add_argument("--camera", action="append", default=[], metavar="NAME", help="say CAM_FRONT (default: all)")
    _add_boxes(nuscenes, (27, 48))
    show = kinds.add_parser("show", help="what a prior is of, and its map in characters")
    show.add_argument("file", type=Path, metavar="prior.safetensors")
    show.add_argument("--plot", type=Path, metavar="PATH", help="write a picture of it")
    for kind, run in ((coco, _prior), (cityscapes, _prior), (nuscenes, _prior), (show, _show)):
        kind.set_defaults(run=run)


def _add_boxes(parser: argparse.ArgumentParser, shape: tuple[int, int]) -> None:
    parser.add_argument("--category", action="append", default=[], metavar="NAME", help="only these (default: all)")
    parser.add_argument("--amplitude", type=float, default=1.0, metavar="A", help="of the boxes (default: 1)")
    parser.add_argument("--bandwidth", type=float, default=64.0, metavar="B", help="in pixels (default: 64)")
    _add_output(parser, shape)


def _add_output(parser: argparse.ArgumentParser, shape: tuple[int, int]) -> None:
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        default=shape,
        metavar=("H", "W"),
        help=f"of the map in cells (default: {shape[0]} {shape[1]})",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="ends in .safetensors or .npz")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write a picture of the map, too")


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(value) for value in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not four numbers x1,y1,x2,y2") from None
    return x1, y1, x2, y2


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not a height and a width, as 600x960 is")
    return int(match[1]), int(match[2])


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not at least 1")
    return count


def _demo(arguments: argparse.Namespace) -> int:
    # Imported here: matplotlib, Pillow, rich and scikit-image are an extra, and doctor must work without them.
    from fastwarp.demo import attached, downsize, zoom

    common: dict[str, Any] = {
        "image": arguments.image,
        "size": tuple(arguments.size) if arguments.size else None,
        "out": arguments.out,
        "device": arguments.device,
        "threads": arguments.threads,
    }
    if arguments.repeats is not None:
        common["repeats"] = arguments.repeats
    if arguments.model is not None:
        for option in ("downsize", "warp"):
            if getattr(arguments, option):
                raise FastwarpError(f"--{option} does not go with --model")
        attached.run(arguments.model, boxes=arguments.boxes, **common)
        return 0
    if not arguments.downsize:
        zoom.run(boxes=arguments.boxes, warp=arguments.warp or "separable", **common)
        return 0
    for option in ("boxes", "warp"):
        if getattr(arguments, option) is not None:
            raise FastwarpError(f"--{option} is of a zoom, not of --downsize")
    downsize.run(**common)
    return 0


def _prior(arguments: argparse.Namespace) -> int:
    from fastwarp.saliency import command

    return command.make(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from fastwarp.saliency import command

    return command.show(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    import torch

    from fastwarp.attaching.measure import report

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise FastwarpError("--device cuda: torch sees no GPU")
    torch.set_num_threads(arguments.threads)
    with _compile_line():
        text = report(arguments.model, arguments.size, arguments.saliency, arguments.rounds, arguments.device)
    print(text)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from fastwarp import doctor

    with _compile_line():
        report = doctor.examine()
    print(json.dumps(report, indent=2) if arguments.json else doctor.text(report))
    return 0 if report["ok"] else 1


def _warmup(arguments: argparse.Namespace) -> int:
    import torch

    from fastwarp import doctor

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise FastwarpError("--device cuda: torch sees no GPU")
    dtypes = [getattr(torch, name) for name in arguments.dtype]
    tally, began = _compiling.Tally(), time.perf_counter()
    with _compile_line() as say, _compiling.observed(tally):
        fastwarp.warmup(
            arguments.device,
            dtypes,
            backward=not arguments.forward,
            progress=lambda name, done, steps: say(f"{done} of {steps} done; {name}: " if name else ""),
            processes=torch.get_num_threads() if arguments.processes is None else arguments.processes,
        )
    if arguments.device == "cuda":
        print("compiled, or found on disk, in Triton's cache")
        return 0
    place = doctor.cache()["directory"]
    kept = f"kept in {shown(place)}" if place else "not kept: no folder can be written to; set NUMBA_CACHE_DIR"
    seconds = time.perf_counter() - began
    done = f"{tally.kernels} kernels compiled in {seconds:.0f} s" if tally.kernels else "nothing to compile"
    print(f"{', '.join(arguments.dtype)}: {done}; {kept}")
    return 0


@contextlib.contextmanager
def _compile_line() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says which kernel is being compiled, behind what the function says that this gives."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    task, tally = "", _compiling.Tally()

    def write(text: str) -> None:
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    def say(text: str) -> None:
        nonlocal task
        task = text
        write(task)

    def observe(kernel: str, seconds: float | None) -> None:
        tally(kernel, seconds)
        if seconds is None:
            write(f"{task}compiling {kernel} ({tally.kernels} kernels so far, {tally.seconds:.0f} s)")

    try:
        with _compiling.observed(observe):
            yield say
    finally:
        write("")
