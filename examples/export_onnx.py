"""Exports a network with a zoom inside to ONNX, and compares ONNX Runtime with torch.

    python examples/export_onnx.py --out runs/zoomed.onnx              # needs onnx and onnxscript
    python examples/export_onnx.py --out runs/zoomed.onnx --check      # and onnxruntime

The warp is an input of the graph: `knots_y` and `knots_x`, here those of boxes. A tracker, or the last frame's
detections, gives new ones for each frame without a new export. Nothing of fastwarp is needed where the graph runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import fastwarp
from fastwarp.saliency import box_knots


class Backbone(nn.Module):
    """Two maps, of strides 4 and 8; stands for a network of yours."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
        self.coarse = nn.Conv2d(32, 64, 3, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """`[B, 3, H, W]` to `[B, 32, H / 4, W / 4]` and `[B, 64, H / 8, W / 8]`."""
        fine = self.fine(image)
        return {"fine": fine, "coarse": self.coarse(fine.relu())}


class Zooming(nn.Module):
    """Zooms an image, runs a backbone, and unzooms its maps."""

    def __init__(self, backbone: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.size = backbone, size

    def forward(self, image: Tensor, knots_y: Tensor, knots_x: Tensor) -> dict[str, Tensor]:
        """An image and the knots of its warp to the maps, in the geometry of the image."""
        warp = fastwarp.SeparableWarp(knots_y, knots_x)
        return warp.unzoom(self.backbone(warp.zoom(image, self.size)), image_size=self.size)


def export(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Writes the graph: fastwarp's operators become standard ones."""
    program = torch.export.export(model, inputs, strict=False)
    program = program.run_decompositions(fastwarp.export.decompositions())
    names = {"input_names": ["image", "knots_y", "knots_x"], "output_names": ["fine", "coarse"]}
    torch.onnx.export(program, dynamo=True, verbose=False, **names).save(path)


def largest_difference(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> float:
    """Between ONNX Runtime and torch, relative to the largest value of a map."""
    import onnxruntime

    with torch.no_grad():
        expected = model(*inputs)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {put.name: tensor.numpy() for put, tensor in zip(session.get_inputs(), inputs, strict=True)}
    differences = []
    for got, right in zip(session.run(None, given), expected.values(), strict=True):
        differences.append((torch.from_numpy(got) - right).abs().max() / right.abs().max())
    return max(differences).item()


def main() -> None:
    """Exports, and compares for boxes that the export has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=int, nargs=2, default=(384, 640), help="height and width of the images")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 320), help="height and width the network runs at")
    parser.add_argument("--out", type=Path, default=Path("runs/zoomed.onnx"))
    parser.add_argument("--check", action="store_true", help="run it in ONNX Runtime")
    options = parser.parse_args()
    source, size = tuple(options.source), tuple(options.size)

    torch.manual_seed(0)
    model, image = Zooming(Backbone(), size).eval(), torch.rand(1, 3, *source)
    here, there = (torch.tensor([[x, 50.0, x + 40, 80.0]]) for x in (30.0, 120.0))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    export(model, (image, *box_knots(here, source, fwhm=10.0)), options.out)
    print(f"graph: {options.out}")
    if options.check:
        difference = largest_difference(model, (image, *box_knots(there, source, fwhm=10.0)), options.out)
        print(f"ONNX Runtime differs from torch by {difference:.1e} of the largest value")


if __name__ == "__main__":
    main()
