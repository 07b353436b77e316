"""Priors: saliency maps of whole data sets, and the files that keep them together with their settings."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp._checks import as_geometry
from fastwarp._files import size_of, unreadable, write_whole
from fastwarp.errors import FastwarpError, check_tensor, fail

SUFFIXES = (".safetensors", ".npz")

LARGEST = 1 << 28
"""Bytes of a file, and of what is packed in it: a map of 8192 x 8192 cells."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """The saliency of a data set, and how it came about.

    Args:
        saliency: `[h, w]`, floating, finite and not negative; `saliency[None]` is what warps are made of.
        settings: what JSON can hold. Readers put down their `kind` ("coco", "cityscapes", "nuscenes"), `source`,
            `image_size` (height, width) and arguments, and how many `images` they averaged.

    Raises:
        FastwarpError: a saliency of another rank, with fewer than 2 cells in a direction, NaN or negative.
        TypeError: a saliency that is not a floating tensor.
    """

    saliency: Tensor
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        check_tensor("Prior", "saliency", self.saliency, "[h, w]", floating=True)
        if min(self.saliency.shape) < 2:
            raise fail("Prior", "saliency", f"of shape {list(self.saliency.shape)}", "at least 2 x 2 cells")
        values = as_geometry(self.saliency.detach())
        if values.is_meta or not ((values >= 0) & (values < float("inf"))).all():
            raise fail(
                "Prior", "saliency", "NaN, infinite or negative in places", "finite values that are not negative"
            )


def save_prior(prior: Prior, path: str | Path) -> None:
    """Writes a prior, whole or not at all: an older file stays until the new one is complete.

    Args:
        prior: map and settings.
        path: ends in .safetensors (the settings are its metadata, as JSON under the key "fastwarp") or in .npz (they
            are its member "settings", likewise). NumPy has no bfloat16: there such a map is kept in float32.

    Raises:
        FastwarpError: another ending, or a file that cannot be written.

    Examples:
        >>> import os, tempfile
        >>> from fastwarp.saliency.files import Prior, load_prior, save_prior
        >>> path = os.path.join(tempfile.mkdtemp(), "prior.npz")
        >>> save_prior(Prior(torch.full((31, 51), 1 / 1581), {"image_size": [1200, 1920]}), path)
        >>> load_prior(path).settings
        {'image_size': [1200, 1920]}
    """
    path = prior_path(path)
    write_whole({path: prior_bytes(prior, path)})


def load_prior(path: str | Path) -> Prior:
    """Reads what `save_prior` wrote. Nothing in a file is ever executed.

    Args:
        path: ends in .safetensors or .npz.

    Raises:
        FastwarpError: a file that cannot be read, or is no prior.
    """
    path = prior_path(path)
    if size_of(path) > LARGEST:
        raise FastwarpError(f"{path} is not a prior: it has more than {LARGEST} bytes")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        saliency, text = (_from_safetensors if path.suffix == ".safetensors" else _from_npz)(content)
        settings = json.loads(text)
        if not isinstance(settings, dict):
            raise FastwarpError("its settings are not a JSON object")
        return Prior(saliency, settings)
    except KeyError as error:
        raise FastwarpError(f"{path} is not a prior: it has no {error}") from None
    except Exception as error:  # parsers of three formats have many
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FastwarpError(f"{path} is not a prior: {reason}") from None


def prior_path(path: str | Path) -> Path:
    """`path`, if its ending is one of `SUFFIXES`."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise FastwarpError(f"{path} does not end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        import safetensors  # noqa: F401  (an extra: if it is missing, say so before anything is read)
    return path


def prior_bytes(prior: Prior, path: Path) -> bytes:
    """What a file of this name holds."""
    saliency, settings = prior.saliency.detach().cpu().contiguous(), json.dumps(prior.settings)
    if path.suffix == ".safetensors":
        from safetensors.torch import save  # an extra

        return save({"saliency": saliency}, {"fastwarp": settings})
    if saliency.dtype not in (torch.float16, torch.float32, torch.float64):
        saliency = saliency.float()
    buffer = io.BytesIO()
    np.savez(buffer, saliency=saliency.clone().numpy(), settings=np.array(settings))
    return buffer.getvalue()


def _from_safetensors(content: bytes) -> tuple[Tensor, str]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        saliency = load(content)["saliency"]
    except SafetensorError as error:
        raise FastwarpError(str(error)) from None
    # The header is read once more, as `load` does not hand out the metadata: its length in 8 bytes, then JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return saliency, header["__metadata__"]["fastwarp"]


def _from_npz(content: bytes) -> tuple[Tensor, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        if sum(member.file_size for member in members.infolist()) > LARGEST:
            raise FastwarpError(f"it unpacks to more than {LARGEST} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["saliency"]), str(arrays["settings"])
