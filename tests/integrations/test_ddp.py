"""DistributedDataParallel in two processes: the gradients are those of both batches in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_two_processes_have_the_gradients_of_one(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    running = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in running:
            errors = process.communicate(timeout=480)[1]
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
