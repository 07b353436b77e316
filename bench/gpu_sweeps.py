"""Other sizes of blocks, numbers of warps and stages than the launchers choose, for `gpu.py` to time.

A setting is in place while its call is made for the first time and captured; a result that differs from that of the
launcher's own choice ends the sweep.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from gpu_cases import Scene, makers


class Launched:
    """A kernel with options in place of the launcher's."""

    def __init__(self, kernel: Any, options: dict[str, int]) -> None:
        self.kernel, self.options = kernel, options

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        launch = self.kernel[grid]
        return lambda *args, **kwargs: launch(*args, **{**kwargs, **self.options})


def _settings(**values: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


_TILES = {"VALUES": (512, 1024, 2048), "num_warps": (4, 8)}
SWEEPS: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
    "zoom fp32": ("separable", "_resample_kernel", _settings(**_TILES)),
    "unzoom fp32, channels_last": ("separable", "_resample_kernel", _settings(**_TILES)),
    "separable adjoint, contiguous": ("_adjoint", "_adjoint_kernel", _settings(**_TILES)),
    "downsize bf16": (
        *("_downsize_conv", "_layer_kernel"),
        _settings(DEPTH=(16, 32, 64), num_warps=(4, 8), num_stages=(1, 2, 3)),
    ),
    "mesh positions, unzoom": (
        *("_mesh_positions", "_unzoom_kernel"),
        _settings(_ROWS=(8, 16), _COLUMNS=(32, 64), num_warps=(4, 8)),
    ),
}
"""By the name of a case: module, kernel, settings. `num_*` are options of the launch, others names in a module."""

HOME = {"VALUES": "_levels", "DEPTH": "_downsize_conv"}
"""The module that has a name, if it is not the kernel's."""


def tuned(name: str, at: Scene) -> Iterator[tuple[dict[str, Any], list[Callable[[], Any]]]]:
    """Every setting of a sweep, and calls under it, each with inputs of its own."""
    module_name, kernel, settings = SWEEPS[name]
    module = importlib.import_module(f"fastwarp.kernels.gpu.{module_name}")
    case = makers(at)[name]()
    calls = [case.call() for _ in range(8 if at.device == "cuda" else 1)]
    expected = list(calls[0]())
    yield {"setting": "as launched"}, calls
    for setting in settings if at.device == "cuda" else settings[:2]:
        options = {key: value for key, value in setting.items() if key.startswith("num_")}
        with contextlib.ExitStack() as stack:
            stack.enter_context(patch.object(module, kernel, Launched(getattr(module, kernel), options)))
            for key in setting.keys() - options.keys():
                home = importlib.import_module(f"fastwarp.kernels.gpu.{HOME.get(key, module_name)}")
                stack.enter_context(patch.object(home, key, setting[key]))
            try:
                for ours, right in zip(calls[0](), expected, strict=True):
                    torch.testing.assert_close(ours, right, rtol=1e-2, atol=1e-2)
            except Exception as error:
                yield {"setting": setting, "error": repr(error)[-300:]}, []
                continue
            yield {"setting": setting}, calls
