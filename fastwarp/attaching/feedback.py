"""What an attached network does outside compiled graphs.

A file of its own: `torch.compiler.disable` loads the compiler, which `import fastwarp` shall not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.compiler.disable
def remember(adapter: Any, found: Any, streams: Sequence[Any] | None) -> None:
    """Keeps detections for the next frame of their streams. Their numbers differ from frame to frame: inside a graph
    each would be compiled anew."""
    if found is not None:
        boxes, scores = ([one.detach() for one in values] for values in found)
        adapter.detections = (boxes, scores)
        adapter.update(boxes, scores, streams)
