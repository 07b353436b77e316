"""The networks that `fastwarp.attach` knows, by the names of their classes, so that no framework is imported."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastwarp.attaching import _openmmlab, _torchvision, _transformers
from fastwarp.attaching.host import Host
from fastwarp.errors import FastwarpError

HOSTS: dict[str, Callable[[nn.Module], Host]] = {
    **_torchvision.HOSTS,
    **_transformers.HOSTS,
    **_openmmlab.HOSTS,
}


def preset(model: nn.Module) -> Host:
    """The host of the network's class, or of the nearest class that it is derived from.

    Raises:
        FastwarpError: there is none; the message names those that there are.
    """
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__]
    for name in names:
        if name in HOSTS:
            return HOSTS[name](model)
    known = ", ".join(f"{name.split('.')[0]}'s {name.split('.')[-1]}" for name in sorted(HOSTS))
    raise FastwarpError(f"attach: there is no preset for {names[0]}, pass a fastwarp.Host; there are {known}")
