"""The training examples: runs repeat, go on where they were killed, and are the same on two processes."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TINY = ["--size", "64", "96", "--source", "128", "192", "--length", "8", "--batch", "4", "--steps", "4"]
KILLED = """
import sys, train_{0} as example
save = example.fit.__globals__["save"]

def save_and_die(*args):
    save(*args)
    raise KeyboardInterrupt

example.fit.__globals__["save"] = save_and_die
example.main()
"""


def start(name: str, out: Path, *options: str, rank: int = 0, ranks: int = 1, port: int = 0, code: str | None = None):
    command = [str(EXAMPLES / f"train_{name}.py")] if code is None else ["-c", code.format(name)]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES), "OMP_NUM_THREADS": "1"}
    if ranks > 1:
        group = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment |= {key: str(value) for key, value in group.items()}
    return subprocess.Popen(
        [sys.executable, *command, *TINY, "--out", str(out), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, ok: bool = True) -> str:
    text, _ = process.communicate(timeout=240)
    assert (process.returncode == 0) == ok, text
    return text


def losses(out: Path) -> list[float]:
    with (out / "log.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "loss"]
    assert [int(row[0]) for row in rows] == list(range(4))
    return [float(row[1]) for row in rows]


def test_two_processes_give_the_losses_of_one(tmp_path):
    finish(start("detector", tmp_path / "one", "--zoom", "learned"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = [start("detector", tmp_path / "two", "--zoom", "learned", rank=r, ranks=2, port=port) for r in range(2)]
    for process in two:
        finish(process)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    options = ("--zoom", "adaptive", "--save-every", "2")  # which draws random numbers in each step
    finish(start("detector", tmp_path / "whole", *options))
    finish(start("detector", tmp_path / "killed", *options, code=KILLED), ok=False)
    finish(start("detector", tmp_path / "killed", *options, "--resume"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_resizer_serves_another_network(tmp_path):
    finish(start("segmenter", tmp_path / "first", "--amp"))
    resizer = tmp_path / "first" / "resizer.safetensors"
    text = finish(start("segmenter", tmp_path / "other", "--start", str(resizer), "--freeze", "--evaluate", "2"))
    assert "mIoU" in text
    assert (tmp_path / "other" / "resizer.safetensors").read_bytes() == resizer.read_bytes()
    assert losses(tmp_path / "other") != losses(tmp_path / "first")


@pytest.mark.parametrize("option", [["--size", "1"], ["--coco", "a.json"], ["--zoom", "square"]])
def test_bad_options_end_with_code_2(tmp_path, option):
    process = start("detector", tmp_path, *option)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "error:" in text
