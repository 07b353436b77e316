"""`fastwarp doctor`: what this installation is made of, which kernels each device gets, and whether they are right."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastwarp
from fastwarp import _compiling, _warmup
from fastwarp._backend import backend, backend_for
from fastwarp.errors import FastwarpError
from fastwarp.functional import downsize
from fastwarp.warp import MeshWarp, SeparableWarp

TOLERANCE = 1e-4
"""Largest accepted error of the self-check, relative to the largest value of each result; float32 gives about 1e-6."""


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Torch's own defaults, and gradients, in a block or a decorated function, whatever the caller has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def versions() -> dict[str, str | None]:
    """Versions of fastwarp, Python and the libraries it works with; None for what is not installed."""
    found: dict[str, str | None] = {"fastwarp": fastwarp.__version__, "python": platform.python_version()}
    for name in ("torch", "triton", "numba", "numpy", "scipy"):
        try:
            # Not from the metadata, which drops the build (+cpu, +cu126).
            found[name] = torch.__version__ if name == "torch" else importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def examine() -> dict[str, Any]:
    """Everything `fastwarp doctor` reports, as JSON-ready values; `ok` says whether every device passed its check."""
    devices = [_examine_device(torch.device("cpu"))]
    devices += [_examine_device(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
    return {
        "ok": all(device["check"] == "OK" for device in devices),
        "versions": versions(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "devices": devices,
        "cache": cache(),
        "to_compile": _to_compile(),
    }


def text(report: dict[str, Any]) -> str:
    """The report of `examine` to read."""
    lines = [f"{name:<10}{version or 'not installed'}" for name, version in report["versions"].items()]
    lines += [
        f"{'system':<10}{report['system']}",
        f"{'machine':<10}{report['cpu']}, {os.cpu_count()} logical cores",
        f"{'threads':<10}{report['threads']} (torch.get_num_threads)",
    ]
    cache = report["cache"]
    if cache["directory"] is None:
        lines.append(f"{'cache':<10}none: {cache['why']}")
    else:
        state = "writable" if cache["writable"] else "NOT writable: kernels are compiled again by every process"
        lines.append(f"{'cache':<10}{cache['directory']} ({state})")
    steps = report["to_compile"]
    if steps is not None:
        parts = ", ".join(f"{step['name']} ({step['seconds']:.0f} s)" for step in steps)
        total = sum(step["seconds"] for step in steps)
        todo = f"about {total:.0f} s in all by `fastwarp warmup`, or by first calls: {parts}"
        lines.append(f"{'compiler':<10}{todo if steps else 'nothing to do: kernels for float32 are on disk'}")
    for device in report["devices"]:
        lines.append(f"{device['device']:<10}{device['name']}: {device['backend'] or 'no backend'} ({device['why']})")
        error = "" if device["max_error"] is None else f", largest error {device['max_error']:.1e}"
        detail = f": {device['message']}" if device["message"] else ""
        lines.append(f"{'':<10}self-check against the float64 reference {device['check']}{error}{detail}")
        if device["compiled"]:
            lines.append(f"{'':<10}compiled {device['compiled']} kernels for it, in {device['compile_seconds']:.0f} s")
    return "\n".join(lines)


def _examine_device(device: torch.device) -> dict[str, Any]:
    chosen = os.environ.get("FASTWARP_BACKEND")
    found: dict[str, Any] = {
        "device": str(device),
        "name": _cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "backend": None,
        "why": f"FASTWARP_BACKEND={chosen}" if chosen else "automatic: numba for CPUs, Triton for GPUs",
        "check": "FAILED",
        "max_error": None,
        "message": "",
    }
    tally = _compiling.Tally()
    try:
        found["backend"] = backend_for(device)
        with _compiling.observed(tally):
            found["max_error"] = _self_check(device)
    except Exception as error:  # whatever is broken here is the finding
        found["message"] = f"{type(error).__name__}: {error}"
        return found
    finally:
        found |= {"compiled": tally.kernels, "compile_seconds": tally.seconds}
    if found["max_error"] <= TOLERANCE:  # also false for NaN
        found["check"] = "OK"
    return found


def _self_check(device: torch.device) -> float:
    """Largest error of small zooms, unzooms and a DownsizeNet, and of all their gradients, against the reference, in
    float32."""
    with backend("reference"):
        expected = _exercise(torch.device("cpu"))
    got = _exercise(device)
    errors = [(a.cpu() - b).abs().max() / b.abs().max() for a, b in zip(got, expected, strict=True)]
    return torch.stack(errors).max().item()


@usual_defaults()
def _exercise(device: torch.device) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)
    shapes = [(2, 9, 12), (2, 3, 37, 53), (2, 4, 10, 14), (8, 3, 3, 3), (8,), (4, 12)]
    drawn = [torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") for shape in shapes]
    inputs = [values.to(device).requires_grad_() for values in drawn]
    saliency, image, level, weight, bias, fuse = inputs
    results = []
    kinds: tuple[type[SeparableWarp] | type[MeshWarp], ...] = (SeparableWarp, MeshWarp)
    for kind, antialias in itertools.product(kinds, (False, True)):
        warp = kind.from_saliency(saliency, fwhm=4.0)
        zoomed = warp.zoom(image, (20, 27), antialias=antialias)
        results += [zoomed, *warp.unzoom([zoomed, level], antialias=antialias)]
    results.append(downsize(image, [weight - 0.5], [bias - 0.5], fuse - 0.5, None, (20, 27)))
    waves = [torch.arange(y.numel(), dtype=y.dtype, device=y.device).cos().view_as(y) for y in results]
    loss = torch.stack([(y * wave).sum() for y, wave in zip(results, waves, strict=True)]).sum()
    return [y.detach() for y in results] + list(torch.autograd.grad(loss, inputs))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cache() -> dict[str, Any]:
    """Where numba keeps the machine code of the CPU kernels."""
    try:
        kernels = vars(importlib.import_module("fastwarp.kernels.cpu.separable")).values()
    except (ImportError, FastwarpError) as error:
        return {"directory": None, "writable": False, "why": str(error)}
    paths = [kernel.stats.cache_path for kernel in kernels if hasattr(kernel, "stats")]
    directory = next((path for path in paths if path), None)
    if directory is None:
        return {"directory": None, "writable": False, "why": "no folder can be written to; set NUMBA_CACHE_DIR"}
    return {"directory": directory, "writable": os.access(_existing(Path(directory)), os.W_OK), "why": ""}


@usual_defaults()
def _to_compile() -> list[dict[str, Any]] | None:
    """What first calls in float32 would compile on this CPU, with seconds, roughly; None where numba does not run."""
    try:
        if backend_for(torch.device("cpu")) != "numba":
            return None
        steps = _warmup.steps_of(torch.device("cpu"), torch.float32, True)
        return [{"name": step.name, "seconds": step.seconds} for step in _warmup.missing(steps)]
    except Exception:  # the self-check has said what is broken
        return None


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
