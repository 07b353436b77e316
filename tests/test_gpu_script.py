"""`make gpu`: every step on tiny inputs in Triton's interpreter, so that no line of it is new on the day."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gpu_helpers import interpreter

import fastwarp

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The module `gpu`, whose results go to a file in `tmp_path`."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setenv("FASTWARP_LINES", str(tmp_path / "lines.jsonl"))
    with interpreter():
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        with fastwarp.backend("triton"):
            yield importlib.import_module("gpu")


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs as it is")
def test_steps(script, tmp_path, monkeypatch):
    monkeypatch.setenv("CASES", "zoom fp32;downsize fp32")
    monkeypatch.setattr(script, "_tool", lambda *arguments: done)
    done = SimpleNamespace(
        returncode=0,
        stderr="",
        stdout='==PROF==\n"ID","Kernel Name","Metric Name","Metric Unit",'
        '"Metric Value"\n"0","_resample_kernel","Duration","us","9"\n"0","_resample_kernel","Registers","","32"\n',
    )
    for name, step in script.STEPS.items():
        if name != "tests":  # pytest in pytest
            step(True)
    script.one("zoom fp32", True)
    script.small(True)
    found = lines(tmp_path)
    assert [line["op"] for line in found if "op" in line] == ["zoom fp32", "downsize fp32"]
    assert not [line for line in found if line.get("error")]
    assert {"grid_sample", "plain torch, IEEE", "plain torch, TF32"} <= {key for line in found for key in line}
    assert all(line[peer]["us"] > 0 for line in found for peer in ("grid_sample", "plain torch, IEEE") if peer in line)
    assert len([line for line in found if "sweep" in line]) == 3
    (counted,) = (line["kernels"] for line in found if "counters" in line)
    assert counted == [{"kernel": "_resample_kernel", "Duration": "9 us", "Registers": "32"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs as it is")
def test_every_case_can_be_made(script):
    """And every number of bytes that must move is one; the calls are those of other tests."""
    at = script.DRY
    for name, make in script.makers(at).items():
        assert make().moved > 0, name
    assert set(script.COUNTED) <= set(script.makers(at))
    assert set(script.SWEEPS) <= set(script.makers(at))


def test_steps_end_in_time_and_leave_their_lines(script, tmp_path, monkeypatch):
    slow = 'import gpu_lines, time; gpu_lines.write(op="first"); time.sleep(60)'
    monkeypatch.setattr(script, "__file__", str(tmp_path / "step.py"))
    (tmp_path / "step.py").write_text(f"import sys; sys.path.insert(0, {str(BENCH)!r}); {slow}")
    monkeypatch.setattr(script, "LIMITS", {"table": (5, "table"), "sweeps": (5, "table")})
    assert script.run(["table", "sweeps"], tmp_path / "out", 6.0, True) == 1
    assert json.loads((tmp_path / "out/table.jsonl").read_text()) == {"op": "first"}
    (step,) = (json.loads(line) for line in (tmp_path / "out/steps.jsonl").read_text().splitlines())
    assert (step["step"], step["rc"], step["lines"]) == ("table", 124, 1)


def test_peers_are_compared_without_tf32(script):
    """Convolutions in TF32 differ by more than the tolerance of the benchmarks."""
    from peers_downsize import precision

    seen = []
    for tf32 in (False, True):
        precision(lambda: seen.append(torch.backends.cudnn.allow_tf32) or [], tf32)()
    assert seen == [False, True]
    assert torch.backends.cudnn.allow_tf32


def test_tests_of_gpus_leave_a_line_each(script, tmp_path):
    from gpu_lines import pytest_runtest_logreport as log

    for when, outcome in (("setup", "passed"), ("call", "failed")):
        log(
            SimpleNamespace(
                when=when, failed=outcome == "failed", longrepr="E 1", nodeid="t", outcome=outcome, duration=1
            )
        )
    assert lines(tmp_path) == [{"test": "t", "outcome": "failed", "seconds": 1, "message": "E 1"}]
