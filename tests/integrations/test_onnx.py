"""Attached networks as ONNX do in ONNX Runtime and OpenVINO what they do in torch."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from hosts import CASES, Case
from torch import Tensor, nn

import fastwarp
from fastwarp import MeshWarp, SeparableWarp
from fastwarp.saliency import LearnedSaliency, box_knots

OUTPUTS = {
    "DetrForObjectDetection": ("logits", "pred_boxes"),
    "SegformerForSemanticSegmentation": ("logits",),
    "UperNetForSemanticSegmentation": ("logits",),
}
BOUND, IN_FLOAT32 = 1e-5, 3e-5
"""OpenVINO computes float64, and so the geometry of warps that are made in the graph, in float32: 1.1e-5 was seen of
adaptive and 1.6e-5 of learned ones, where torch is 7.5e-6 off the same network in float64. `EXECUTION_MODE_HINT`
does not change that. Constants of fixed warps are not concerned: 1.7e-6."""
NAMED = {case.name.split()[1]: case for case in CASES if case.name.startswith("transformers")}
IMAGE = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[[10.0, 10, 60, 80], [50, 40, 120, 100]]])


class Raw(nn.Module):
    """A network from an image, and the boxes of the last frame where its warp is of them, to some of its outputs."""

    def __init__(self, case: Case, saliency):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.names = case.build().eval(), OUTPUTS[case.name.split()[1]]
        if saliency is not None:
            fastwarp.attach(self.network, saliency, fwhm=6.0)

    def forward(self, image: Tensor, boxes: Tensor | None = None) -> list[Tensor]:
        if boxes is not None:
            knots = box_knots(boxes, (128, 160), (9, 11), fwhm=6.0)
            self.network.fastwarp.next(warp=SeparableWarp(*knots))
        output = self.network(pixel_values=image)
        return [output[name] for name in self.names]


def errors(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> list[float]:
    """The largest error of each runtime, relative to the largest value of that output."""
    with torch.no_grad():
        expected = [output.numpy() for output in module(*inputs)]
        program = torch.export.export(module, inputs, strict=False)
        program = program.run_decompositions(fastwarp.export.decompositions())
        torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    arrays = [tensor.numpy() for tensor in inputs]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # others wait for their turn at full speed
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {put.name: array for put, array in zip(session.get_inputs(), arrays, strict=True)})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    found = []
    for results in (theirs, list(compiled(arrays).values())):
        pairs = zip(results, expected, strict=True)
        found.append(max(np.abs(one - right).max() / np.abs(right).max() for one, right in pairs))
    return found


@functools.lru_cache
def of_the_plain_network(name: str, folder: Path) -> list[float]:
    return errors(Raw(NAMED[name], None), (IMAGE,), folder / f"{name}.onnx")


def saliency_of(kind: str):
    if kind == "fixed":
        return torch.rand(9, 11, generator=torch.Generator().manual_seed(2))
    learned = LearnedSaliency((9, 11))
    nn.init.normal_(learned.layers[-1].weight, generator=torch.Generator().manual_seed(2))
    return learned if kind == "learned" else SeparableWarp.identity()


@pytest.mark.parametrize("kind", ["fixed", "adaptive", "learned"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_attached_networks(name, kind, tmp_path_factory):
    plain = of_the_plain_network(name, tmp_path_factory.getbasetemp())
    inputs = (IMAGE, BOXES) if kind == "adaptive" else (IMAGE,)
    network = Raw(NAMED[name], saliency_of(kind))
    attached = errors(network, inputs, tmp_path_factory.mktemp("onnx") / "attached.onnx")
    bounds = {"ONNX Runtime": BOUND, "OpenVINO": BOUND if kind == "fixed" else IN_FLOAT32}
    for (runtime, bound), error, without in zip(bounds.items(), attached, plain, strict=True):
        assert error < bound + 2 * without, f"{runtime}: {error:.1e}, the plain network's is {without:.1e}"


def test_frozen_meshes(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            warp = MeshWarp.from_saliency(torch.rand(1, 9, 11, generator=torch.Generator().manual_seed(2)), fwhm=6.0)
            self.warp, self.network = (
                warp.freeze((128, 160), (64, 80), [(16, 20)], image_size=(64, 80)),
                nn.Conv2d(3, 8, 3, 4, 1),
            )

        def forward(self, image):
            return [self.warp.unzoom(self.network(self.warp.zoom(image)))]

    assert max(errors(Both(), (IMAGE,), tmp_path / "mesh.onnx")) < BOUND
