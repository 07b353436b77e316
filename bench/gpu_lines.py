"""Results as lines of JSON, each written when it is known: a machine that goes away takes nothing along.

As a pytest plugin (`-p gpu_lines`) it writes one for every test; benchmarks add theirs by `write`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = "FASTWARP_LINES"
"""Environment variable with the path of the file; without it nothing is written."""


def write(file_path: Path | None = None, **values: Any) -> None:
    """Appends a line to the file, or to the one that the environment names."""
    if path := file_path or os.environ.get(FILE):
        with Path(path).open("a") as file:
            file.write(json.dumps(values) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pytest_runtest_logreport(report: Any) -> None:
    """What a test came to, with the end of its message if it failed."""
    if report.when == "call" or report.failed:
        message = str(report.longrepr)[-1500:] if report.failed else None
        write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), message=message)
