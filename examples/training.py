"""What any training needs: options, processes, the loop, checkpoints and a log. It knows of no zoom."""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from data import Batches, CocoFolder, Scenes, collate
from torch import Tensor, nn
from torch.utils.data import DataLoader


def start() -> torch.device:
    """This process's device, in a group with the others that torchrun started."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    return device


def fit(options: argparse.Namespace, model: nn.Module, data: Any, objective: Callable[[Any, Any], Tensor]) -> None:
    """Minimises `objective(model(images, targets), targets)`, the mean over all ranks; writes checkpoints and a log.

    Runs repeat: the batches, the random numbers and the optimiser of a resumed run are those of one that went through.
    """
    device = next(model.parameters()).device
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], options.lr, weight_decay=0.01)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp and device.type == "cuda")
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint, first = options.out / "checkpoint.pt", 0
    if options.resume and checkpoint.exists():
        first = load(checkpoint, model, optimizer, scaler)
    parallel: nn.Module = nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
    running = torch.compile(parallel) if options.compile else parallel
    batches = Batches(len(data), options.batch, first, options.steps, options.seed, rank, ranks)
    own = {"num_workers": options.workers, "generator": torch.Generator()}  # its own: it draws, too
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, **own)  # type: ignore[arg-type]
    log = Log(options, first) if rank == 0 else None
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    for step, (images, targets) in enumerate(progress(loader, rank), first):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min((step + 1) / 50, (1 + math.cos(math.pi * step / options.steps)) / 2)
        targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
        with torch.autocast(device.type, half, enabled=options.amp):
            output = running(images.to(device, non_blocking=True), targets)
        value = objective(output, targets)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        value = value.detach() / ranks
        if ranks > 1:
            dist.all_reduce(value)
        if log is not None:
            log.add(step, value.item())
            if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
                save(checkpoint, step + 1, model, optimizer, scaler)


def save(path: Path, step: int, model: nn.Module, optimizer: Any, scaler: Any) -> None:
    """A checkpoint, whole or not at all."""
    content = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    content |= {"scaler": scaler.state_dict(), "random": torch.get_rng_state()}
    torch.save(content, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def load(path: Path, model: nn.Module, optimizer: Any, scaler: Any) -> int:
    """The step to go on with."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    scaler.load_state_dict(content["scaler"])
    torch.set_rng_state(content["random"])
    return content["step"]


class Log:
    """The loss of each step in `log.csv`, and for TensorBoard if it was asked for. A resumed run goes on in them."""

    def __init__(self, options: argparse.Namespace, first: int) -> None:
        self.path, self.board = options.out / "log.csv", None
        rows = list(csv.reader(self.path.open(newline=""))) if first and self.path.exists() else []
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "loss"], *(row for row in rows[1:] if int(row[0]) < first)])
        if options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(options.out, purge_step=first)

    def add(self, step: int, loss: float) -> None:
        """Writes a line at once."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.7g}"])
        if self.board is not None:
            self.board.add_scalar("loss", loss, step)


def scale_of(options: argparse.Namespace) -> Tensor:
    """Pixels of the network's image for each pixel of the source, (x, y, x, y)."""
    (height, width), (source_height, source_width) = options.size, options.source
    return torch.tensor([width / source_width, height / source_height]).repeat(2)


def progress(loader: DataLoader, rank: int) -> Any:
    """The batches, with a progress bar on the first rank."""
    if rank:
        return loader
    from rich.progress import track

    return track(loader, "training")


def dataset(options: argparse.Namespace, seed: int) -> Any:
    """The user's COCO folder, or generated scenes."""
    if options.coco is not None:
        return CocoFolder(options.coco, options.images, options.source)
    return Scenes(options.length, options.source, seed, options.pitch)


def common(description: str, out: str) -> argparse.ArgumentParser:
    """Options of any training."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 320), help="height and width the network runs at")
    parser.add_argument("--source", type=int, nargs=2, default=(384, 640), help="height and width of the images")
    parser.add_argument("--length", type=int, default=2000, help="number of generated scenes")
    parser.add_argument("--pitch", type=float, default=0.0, help="how much their horizon varies, see data.Scenes")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=8, help="images of all processes together")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of checkpoint and log")
    for flag in ("resume", "amp", "compile", "tensorboard"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser
