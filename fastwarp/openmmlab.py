"""`FastwarpAttach` for configurations of OpenMMLab: a network with a zoom, in a few lines and without code.

```
custom_imports = dict(imports=["fastwarp.openmmlab"])
model = dict(type="FastwarpAttach", model=dict(type="RetinaNet", ...), saliency=dict(type="LearnedSaliency"))
```
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from fastwarp import saliency as saliencies
from fastwarp.attaching import Host, attach
from fastwarp.errors import FastwarpError
from fastwarp.nn import DownsizeNet

KINDS: dict[str, Any] = {
    "AdaptiveSaliency": saliencies.AdaptiveSaliency,
    "DownsizeNet": DownsizeNet,
    "FixedSaliency": saliencies.FixedSaliency,
    "LearnedSaliency": saliencies.LearnedSaliency,
}
MAPS = ("prior", "saliency")
"""Arguments of these that are maps."""


def attached(model: Any, saliency: Any, host: Any = None, **options: Any) -> nn.Module:
    """Builds a network and attaches a zoom to it; `FastwarpAttach` in configurations.

    Args:
        model: configuration of the network.
        saliency: a path to a prior, nested lists of a map, or a dict: its `type` is FixedSaliency, AdaptiveSaliency,
            LearnedSaliency or DownsizeNet, the rest are its arguments, where maps are paths or nested lists. Objects
            count as they are.
        host: arguments of a `fastwarp.Host`; None: by the class of the network.
        options: those of `fastwarp.attach`.

    Returns:
        The network.

    Raises:
        FastwarpError: an unknown type of saliency; what `fastwarp.attach` raises.
    """
    network = MODELS.build(model) if isinstance(model, dict) else model
    attach(network, _saliency(saliency), Host(**host) if isinstance(host, dict) else host, **options)
    return network


def _saliency(value: Any) -> Any:
    if not isinstance(value, dict):
        return _map(value)
    arguments = dict(value)
    kind = arguments.pop("type", None)
    if kind not in KINDS:
        raise FastwarpError(f"FastwarpAttach: saliency has type={kind!r}, expected one of {', '.join(KINDS)}")
    return KINDS[kind](**{name: _map(one) if name in MAPS else one for name, one in arguments.items()})


def _map(value: Any) -> Any:
    if isinstance(value, str):
        return saliencies.load_prior(value).saliency
    return torch.tensor(value, dtype=torch.float32) if isinstance(value, (list, tuple)) else value


MODELS.register_module(name="FastwarpAttach", module=attached)
