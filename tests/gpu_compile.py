"""Compiles every Triton kernel for GPUs that need not be there; prints a JSON list of what each one uses
(registers; bytes of stack, local and shared memory; instructions, and selects among them; whether it has accesses of 16
bytes, and products in float64 that may be fused with sums).

Run as a script, without TRITON_INTERPRET. The launchers are called as they are, on CPU tensors; instead of launching,
each kernel is compiled for the arguments it was given. `--short` leaves out the rarer variants, `--few` all but two of
each kernel.
"""

import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from fastwarp.kernels.gpu import axis, density, downsize, grid, label, mesh, separable

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compile_for(kernel: Any, args: tuple, kwargs: dict, capability: int | str) -> Any:
    """What `kernel[grid](*args, **kwargs)` compiles on a GPU of that compute capability, or AMD architecture."""
    if isinstance(capability, str):
        target = GPUTarget("hip", capability, 64)
    else:
        target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*args, **kwargs, debug=False)
    options, signature, constexprs, attrs = kernel._pack_args(backend, kwargs, bound, specialization, options)
    source = ASTSource(kernel, signature, constexprs, attrs)
    return triton.compile(source, target=target, options=options.__dict__)


def resources(compiled: Any) -> dict[str, Any]:
    """Registers per thread, bytes of stack and local memory (spills) per thread, and instructions."""
    if "amdgcn" in compiled.asm:
        number = dict(
            re.findall(r"\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size): +(\d+)", compiled.asm["amdgcn"])
        )
        local = int(number["vgpr_spill_count"])
        return {"REG": int(number["vgpr_count"]), "STACK": int(number["private_segment_fixed_size"]), "LOCAL": local}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", "--dump-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    fields = dict(f.split(":")[:2] for line in usage.splitlines() if "REG:" in line for f in line.split())
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)\S", usage, re.MULTILINE)
    found = {key: int(fields[key]) for key in ("REG", "STACK", "LOCAL", "SHARED")}
    return {
        **found,
        "INSTRUCTIONS": len(instructions),
        "SELECTS": len(re.findall(r"\bU?SEL\b", usage)),
        "VECTORS": re.search(r"\.v4\.b32|\.v2\.b64", compiled.asm["ptx"]) is not None,
        # Without a rounding mode, ptxas may make a fused multiply-add of it.
        "FUSIBLE": re.search(r"\b(add|sub|mul)\.f64", compiled.asm["ptx"]) is not None,
    }


PYRAMID = [(256, 75, 120), (256, 38, 60), (256, 19, 30), (256, 10, 15), (256, 5, 8)]


def launches(short: bool) -> Iterator[str]:
    """Calls every launcher; yields a name for what was launched."""
    for dtype in (torch.float32,) if short else (torch.float32, torch.float64):
        saliency = torch.empty(2, 31, 51, dtype=dtype)
        for anti_crop in (True, False):
            y, x = axis.lz_knots(saliency, saliency.mT, 13.0, anti_crop)
            axis.lz_knots_backward(y, x, saliency, saliency.mT, 13.0, anti_crop)
            yield f"{dtype} anti_crop={anti_crop}"
        sizes = [side for _, *size in PYRAMID for side in size]
        valid = torch.zeros(2, 5, 2, dtype=torch.int64)
        for inverse in (False, True):
            axis.axis_map_backward(axis.axis_map(y, y, inverse), y, y, inverse)
            for antialias in (False, True):
                args = (y, x, sizes, sizes, inverse, antialias, False, valid, None)
                axis.axis_windows_backward(axis.axis_windows(*args), *args)
                yield f"{dtype} inverse={inverse} antialias={antialias}"

        boxes, numbers = torch.empty(2, 100, 4, dtype=dtype), (torch.empty(2), torch.empty(1))
        for given in ((None, None, None), (torch.zeros(2, dtype=torch.int64), *numbers)):
            args = (boxes, *given, 1.0, 64.0, 1200, 1920, 31, 51)
            density.density_map_backward(density.density_map(*args), *args)
            density.density_knots_backward(*density.density_knots(*args, 13.0, True), *args, 13.0, True)
            yield f"{dtype} boxes counts={given[0] is not None}"

    for dtype in (
        (torch.float16, torch.float64) if short else (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    ):
        for form in (torch.contiguous_format, torch.channels_last):
            for antialias in (False, True):
                for levels, size in ((PYRAMID, None),) if short else ((PYRAMID, None), ([(3, 900, 1600)], (450, 800))):
                    images = [torch.empty(2, *shape, dtype=dtype).to(memory_format=form) for shape in levels]
                    sources = [side for _, *sides in levels for side in sides]
                    sizes = list(size or sources)
                    windows = torch.empty(2, 2, sum(sizes), dtype=torch.promote_types(dtype, torch.float32))
                    outs = separable.resample(images, windows, sizes, None, antialias)
                    separable.resample_adjoint(outs, windows, sources, None, antialias)
                    separable.windows_gradient(outs, images, windows, None, antialias)
                    yield f"{dtype} {form} antialias={antialias} levels={len(levels)}"

    frame = torch.empty(2, 900, 1600, 3, dtype=torch.uint8)
    windows, valid = torch.empty(2, 2, 450 + 800), torch.zeros(2, 1, 2, dtype=torch.int64)
    for antialias in (False, True):
        separable.camera(frame, windows, [450, 800], [0.1, 0.2, 0.3], [-1.0, 0.5, 2.0], torch.float16, valid, antialias)
        separable.resample([frame.permute(0, 3, 1, 2)], windows, [450, 800], valid, antialias)
        yield f"camera and uint8 antialias={antialias}"

    yield from label_launches()
    yield from grid_launches(short)
    yield from mesh_launches(short)
    yield from downsize_launches(short)


def main_launches() -> Iterator[str]:
    """What is run most, at usual sizes."""
    windows, picture = torch.empty(1, 2, 600 + 960), torch.empty(1, 3, 1200, 1920)
    for dtype in (torch.float32, torch.bfloat16):
        zoomed = separable.resample([picture.to(dtype)], windows, [600, 960], None, False)
        yield f"main: zoom {dtype}"
    separable.resample_adjoint([z.float() for z in zoomed], windows, [1200, 1920], None, False)
    yield "main: adjoint of a zoom"
    sizes = [side for _, *size in PYRAMID for side in size]
    windows = torch.empty(1, 2, sum(sizes))
    for form in (torch.contiguous_format, torch.channels_last):
        images = [torch.empty(1, *shape, dtype=torch.bfloat16).to(memory_format=form) for shape in PYRAMID]
        separable.resample(images, windows, sizes, None, False)
        yield f"main: unzoom {form}"
    windows, _ = mesh.positions(torch.empty(1, 31, 51, 2), sizes, sizes, True, False, False, None, None)
    grid.resample([image.contiguous() for image in images], windows, sizes, None)
    yield "main: mesh unzoom"
    args = downsize_arguments((16, 3, 300, 300), (160, 160), 2, 3, 16, torch.bfloat16)
    downsize.downsize(*args, "sigmoid")
    yield "main: downsize"


def label_launches() -> Iterator[str]:
    """The same for the `label` family."""
    for dtype in (torch.uint8, torch.int64):
        labels = [torch.zeros(2, *shape, dtype=dtype) for shape in PYRAMID]
        sizes = [side for _, *size in PYRAMID for side in size]
        windows = torch.empty(2, 2, sum(sizes))
        for launch in (label.nearest, label.majority):
            launch(labels, windows, True, sizes, None, 0)
            yield f"{dtype} {launch.__name__}"


def grid_launches(short: bool) -> Iterator[str]:
    """The same for the `grid` family."""
    few, half = (torch.float16, torch.float64), (torch.bfloat16, torch.float32)
    for dtype in few if short else few + half:
        for form in (torch.contiguous_format, torch.channels_last):
            for rows in (2, 4):
                for levels, size in ((PYRAMID, None),) if short else ((PYRAMID, None), ([(3, 900, 1600)], (450, 800))):
                    images = [torch.empty(2, *shape, dtype=dtype).to(memory_format=form) for shape in levels]
                    sources = [side for _, *sides in levels for side in sides]
                    sizes = list(size or sources)
                    targets = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
                    exact = torch.promote_types(dtype, torch.float32)
                    for precision in (exact,) if short else {exact, torch.float64}:
                        windows = torch.empty(2, rows, targets, dtype=precision)
                        outs = grid.resample(images, windows, sizes, None)
                        grid.resample_adjoint(outs, windows, sources, None)
                        grid.windows_gradient(outs, images, windows, None)
                        yield f"{dtype} {form} rows={rows} levels={len(levels)} windows={precision}"

    frame, valid = torch.empty(2, 900, 1600, 3, dtype=torch.uint8), torch.zeros(2, 1, 2, dtype=torch.int64)
    for rows in (2, 4):
        windows = torch.empty(2, rows, 450 * 800)
        grid.camera(frame, windows, [450, 800], [0.1, 0.2, 0.3], [-1.0, 0.5, 2.0], torch.float16, valid)
        grid.resample([frame.permute(0, 3, 1, 2)], windows, [450, 800], valid)
        yield f"camera and uint8 rows={rows}"


def mesh_launches(short: bool) -> Iterator[str]:
    """The same for the `mesh` family."""
    for dtype in (torch.float32,) if short else (torch.float32, torch.float64):
        for anti_crop in (True, False):
            saliency = torch.empty(2, 31, 51, dtype=dtype)
            mesh.lz_mesh_backward(mesh.lz_mesh(saliency, 13.0, anti_crop), saliency, 13.0, anti_crop)
            yield f"{dtype} mesh of saliency anti_crop={anti_crop}"
        for levels in (PYRAMID,) if short else (PYRAMID, [(3, 600, 960)]):
            vertices, points = torch.empty(2, 31, 51, 2, dtype=dtype), torch.empty(2, 1000, 2, dtype=dtype)
            sizes = [side for _, *size in levels for side in size]
            valid = torch.zeros(2, len(levels), 2, dtype=torch.int64)
            for inverse in (False, True):
                for homography in (False, True):
                    args = (sizes, sizes, inverse, homography)
                    for border in (False, True):
                        windows, tiles = mesh.positions(vertices, *args, border, valid, None)
                    grid.widen_backward(grid.widen(windows, *args[:2], valid, None), windows, *args[:2], valid, None)
                    mesh.positions_backward(windows, vertices, windows, tiles, *args, valid, None)
                    mapped, tiles = mesh.map(vertices, points, inverse, homography)
                    mesh.map_backward(mapped, vertices, points, mapped, tiles, inverse, homography)
                    yield f"{dtype} inverse={inverse} homography={homography} levels={len(levels)}"


def downsize_arguments(
    shape: tuple[int, ...],
    size: tuple[int, int],
    taps: int,
    layers: int,
    features: int,
    dtype: torch.dtype,
    form: torch.memory_format = torch.contiguous_format,
) -> tuple[Any, ...]:
    real, widths = torch.promote_types(dtype, torch.float32), [shape[1], *[features] * layers]
    return (
        torch.empty(shape, dtype=dtype).to(memory_format=form),
        [torch.empty(b, a, 3, 3, dtype=real) for a, b in itertools.pairwise(widths)],
        [torch.empty(b, dtype=real) for b in widths[1:]],
        torch.empty(taps * taps, features, dtype=real),
        torch.empty(taps * taps, *size, dtype=real),
        *(torch.zeros(side, taps, dtype=torch.int32) for side in size),
        *(torch.zeros(side, dtype=torch.int32) for side in size),
        *([0.5] * shape[1], [2.0, *[1.0] * (shape[1] - 1)]),
    )


def downsize_launches(short: bool) -> Iterator[str]:
    """The same for the `downsize` family: with maps before the last layer, and with the last two at the targets."""
    usual, strong = ((1, 3, 300, 480), (150, 240), 2), ((1, 3, 300, 480), (30, 48), 11)
    some = [(3, 16, usual), (2, 16, strong)]
    rare = [(0, 0, usual), (1, 16, ((1, 3, 300, 300), (160, 160), 4)), (2, 64, ((2, 64, 75, 120), (19, 30), 5))]
    for dtype in (
        (torch.float16, torch.float32, torch.float64)
        if short
        else (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    ):
        for layers, features, (shape, size, taps) in some if short else some + rare:
            for form in (torch.contiguous_format,) if short else (torch.contiguous_format, torch.channels_last):
                args = downsize_arguments(shape, size, taps, layers, features, dtype, form)
                for normalise in ("sigmoid",) if short else ("sigmoid", "softmax", "signed"):
                    grad = downsize.downsize(*args, normalise)
                    for wanted in ((True, True, True),) if short else ((True, True, True), (False, True, False)):
                        downsize.downsize_backward(grad, *args, normalise, *wanted)
                yield f"{dtype} {form} layers={layers} features={features} taps={taps}"
        real = torch.promote_types(dtype, torch.float32)
        for taps in (4, 16):
            distances, weight = torch.empty(taps, 150, 240, dtype=real), torch.empty(taps, taps, dtype=real)
            logits = downsize.logits(distances, weight, weight[0])
            for need_distances in (False, True):
                downsize.logits_backward(logits, distances, weight, need_distances)
            yield f"{dtype} distances taps={taps}"


JOBS: list[tuple[str, Any, tuple, dict]] = []
TARGETS = (80, 90, 100, "gfx942")


def row(job: int, target: int | str) -> dict[str, Any]:
    case, kernel, args, kwargs = JOBS[job]
    compiled = compile_for(kernel, args, kwargs, target)
    return {"kernel": kernel.__name__, "case": case, "sm": target, "hash": compiled.hash, **resources(compiled)}


def few() -> list[tuple[int, int | str]]:
    """The last variant of every kernel, of most work mostly, for one of two GPUs; what is run most for more."""
    last = {kernel.__name__: job for job, (case, kernel, _, _) in enumerate(JOBS) if not case.startswith("main")}
    pairs = [(job, TARGETS[i % 2]) for i, job in enumerate(last.values())]
    main = [job for job, (case, *_) in enumerate(JOBS) if case.startswith("main")]
    return [*pairs, *((job, 90) for job in main), *((job, target) for job in main[::3] for target in TARGETS[2:])]


def main() -> None:
    recorded: list[tuple[Any, tuple, dict]] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        recorded.append((kernel, args, kwargs))

    JITFunction.run = record  # type: ignore[method-assign]
    short = "--short" in sys.argv or "--few" in sys.argv
    for case in itertools.chain(launches(short), main_launches()):
        JOBS.extend((case, *call) for call in recorded)
        recorded.clear()
    pairs = few() if "--few" in sys.argv else list(itertools.product(range(len(JOBS)), TARGETS))
    # Forked workers find the kernels and their arguments in JOBS.
    with multiprocessing.get_context("fork").Pool(os.cpu_count() if len(pairs) > 1000 else 2) as pool:
        rows = pool.starmap(row, pairs, chunksize=1)
    json.dump(list({(r["hash"], r["sm"]): r for r in rows}.values()), sys.stdout)


if __name__ == "__main__":
    main()
