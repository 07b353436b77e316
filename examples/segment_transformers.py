"""Segments with a zoom inside SegFormer of transformers, which learns where to look from the loss it is trained by.

    python examples/segment_transformers.py                    # generated scenes, a small network of random weights
    python examples/segment_transformers.py --model nvidia/segformer-b0-finetuned-cityscapes-768-768 --steps 500

`attach` is one line. The network runs at half the size of its images (`scale=0.5`): labels and logits keep the geometry
of the source, so that nothing of the training loop knows of the zoom.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from data import Scenes
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import fastwarp
from fastwarp.saliency import LearnedSaliency

CLASSES = 2 + Scenes.classes  # background, road, objects


def network(name: str | None) -> SegformerForSemanticSegmentation:
    """Pretrained weights with a head for our classes, or a small network of random ones."""
    if name is not None:
        return SegformerForSemanticSegmentation.from_pretrained(name, num_labels=CLASSES, ignore_mismatched_sizes=True)
    small = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}
    return SegformerForSemanticSegmentation(SegformerConfig(**small, decoder_hidden_size=64, num_labels=CLASSES))


def batch(data: Scenes, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Images `[B, 3, H, W]` and labels `[B, H, W]`."""
    images, targets = zip(*(data[(first + i) % len(data)] for i in range(count)), strict=True)
    return torch.stack(images), torch.stack([target["mask"] for target in targets])


@torch.no_grad()
def accuracy(model: SegformerForSemanticSegmentation, data: Scenes) -> float:
    """Share of the pixels that get their class."""
    model.eval()
    right = []
    for i in range(len(data)):
        image, mask = batch(data, i, 1)
        logits = F.interpolate(model(pixel_values=image).logits, mask.shape[1:], mode="bilinear")
        right.append((logits.argmax(1) == mask).float().mean().item())
    return sum(right) / len(right)


def main() -> None:
    """Trains, measures, and writes the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint of transformers; none: a small network")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 640), help="height and width of the images")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tests", type=int, default=20, help="images to measure on")
    parser.add_argument("--out", type=Path, default=Path("runs/segment"))
    options = parser.parse_args()

    torch.manual_seed(0)
    model = network(options.model)
    fastwarp.attach(model, LearnedSaliency(), scale=0.5)  # the one line
    data = Scenes(1000, tuple(options.size))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)  # which has the saliency's parameters, too
    for step in range(options.steps):
        images, labels = batch(data, options.batch * step, options.batch)
        loss = model(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step + 1 == options.steps:
            print(f"step {step}: loss {loss.item():.3f}")
    share = accuracy(model, Scenes(options.tests, tuple(options.size), seed=1))
    looked = model.fastwarp.warp.magnification(tuple(options.size))
    print(f"accuracy {share:.3f}; magnification {looked.min():.2f} to {looked.max():.2f}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), options.out / "model.pt")


if __name__ == "__main__":
    main()
