"""Waiting for the compiler: who is told, what is still to be compiled, and `fastwarp warmup`."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import subprocess
import sys
import threading

import numba
import pytest
import torch

import fastwarp
from fastwarp import _compiling, _warmup, cli, doctor
from fastwarp.cli import main
from fastwarp.kernels.cpu._parallel import jit


@pytest.fixture(autouse=True)
def numba_is_watched():
    _compiling.watch()


def kernel(module: str = "fastwarp.kernels.cpu.invented"):
    """A kernel that no cache has, with a helper that is compiled with it."""

    def helper(x):
        return x + 1

    def invented(x):
        return inner(x)

    helper.__module__ = invented.__module__ = module
    inner = numba.njit(helper)
    return numba.njit(invented)


def test_observers_hear_of_kernels_once_and_not_of_calls_or_helpers():
    heard = []
    with _compiling.observed(lambda name, seconds: heard.append((name, seconds))):
        compiled = kernel()
        assert compiled(1) == 2
        assert compiled(2) == 3
    (before, after) = heard
    assert before == ("invented", None)
    assert after[0] == "invented"
    assert after[1] > 0
    kernel()(1)  # nobody listens any more
    assert len(heard) == 2


def test_kernels_of_others_are_not_ours():
    tally = _compiling.Tally()
    with _compiling.observed(tally):
        kernel("somebody.elses")(1)
    assert (tally.kernels, tally.seconds) == (0, 0)


@pytest.mark.parametrize("is_on", [True, False])
def test_the_garbage_collector_waits_for_the_compiler(is_on):
    seen = []

    @numba.extending.overload(never := lambda: None)
    def _():
        seen.append(gc.isenabled())
        return lambda: None

    def invented():
        never()

    def faulty():
        never() + ""

    (gc.enable if is_on else gc.disable)()
    try:
        for function in (invented, faulty):
            with contextlib.suppress(numba.TypingError):
                jit(function)()
            assert gc.isenabled() == is_on
    finally:
        gc.enable()
    assert seen
    assert not any(seen)


def test_an_observer_can_refuse_and_a_later_call_compiles():
    def refuse(name: str, seconds: float | None) -> None:
        if seconds is None:
            raise KeyError(name)

    compiled, heard = kernel(), []
    with _compiling.observed(lambda *event: heard.append(event)):
        with _compiling.observed(refuse), pytest.raises(KeyError):
            compiled(1)
        assert heard == []
        assert compiled(1) == 2
    assert len(heard) == 2


def test_the_log_says_once_that_it_is_waiting(caplog, monkeypatch):
    said = threading.Event()
    log = _compiling._Log()
    caplog.set_level(logging.INFO, "fastwarp")
    monkeypatch.setattr(_compiling, "LONG", 0.5)
    log("quick", None)
    log("quick", 0.25)
    assert log.timer is None
    assert caplog.records == []
    monkeypatch.setattr(log, "say", lambda say=log.say: (say(), said.set()))
    log("slow", None)
    assert said.wait(20)  # while "slow" is being compiled, without its end
    log("slow", 3.0)
    log("third", None)
    assert log.timer is None
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("fastwarp", "INFO")
    assert "fastwarp warmup" in record.message


EMPTY = """
import json, os, sys, torch
import fastwarp
from fastwarp import _compiling, _warmup, doctor
tally = _compiling.Tally()
with _compiling.observed(tally):
    steps = _warmup.steps_of(torch.device("cpu"), torch.float32, True)
    found = [step.name for step in _warmup.missing(steps)]
    report = doctor._to_compile()
names = [step.name for step in steps]
print(json.dumps([found, names, report, tally.kernels, os.listdir(sys.argv[1])]))
"""


def test_what_is_missing_is_found_without_compiling(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", EMPTY, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, names, report, compiled, files = json.loads(done.stdout)
    assert found == names == [step["name"] for step in report]
    assert (compiled, files) == (0, [])


def test_doctor_says_what_is_to_be_compiled(monkeypatch):
    step = _warmup.Step("mesh warp, float32", "mesh warp", 21.0, lambda: None)
    for steps, expected in (([step, step], r"about 42 s in all .*mesh warp, float32 \(21 s\)"), ([], "nothing to do")):
        monkeypatch.setattr(_warmup, "missing", lambda _, steps=steps: steps)
        monkeypatch.setattr(doctor, "_exercise", lambda device: [torch.ones(1)])
        text = doctor.text(doctor.examine())
        assert re.search("^compiler +" + expected, text, re.MULTILINE)
    with fastwarp.backend("reference"):
        assert doctor._to_compile() is None


def test_doctor_says_what_it_compiled_itself(monkeypatch):
    monkeypatch.setattr(_warmup, "missing", lambda _: [])

    def exercise(device: torch.device) -> list[torch.Tensor]:
        if doctor.backend_for(device) == "numba":
            kernel()(1)
        return [torch.ones(1)]

    monkeypatch.setattr(doctor, "_exercise", exercise)
    report = doctor.examine()
    assert report["devices"][0]["compiled"] == 1
    assert "compiled 1 kernels for it, in " in doctor.text(report)


def few_steps(monkeypatch, run=lambda: None) -> None:
    monkeypatch.setattr(
        _warmup,
        "steps_of",
        lambda device, dtype, backward: [_warmup.Step(str(dtype), "any", 1.0, run) for _ in range(2)],
    )


def test_warmup_tells_its_progress(monkeypatch):
    ran, told = [], []
    few_steps(monkeypatch, lambda: ran.append(len(told)))
    fastwarp.warmup(dtypes=[torch.float32, torch.float64], progress=lambda *step: told.append(step))
    one, two = "torch.float32", "torch.float64"
    assert told == [(one, 0, 4), (one, 1, 4), (two, 2, 4), (two, 3, 4), ("", 4, 4)]
    assert ran == [1, 2, 3, 4]  # each is told before it runs


def test_the_command_compiles(capsys, monkeypatch):
    few_steps(monkeypatch, lambda: kernel()(1))
    assert main(["warmup", "--processes", "1"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"float32: 2 kernels compiled in \d+ s; kept in /.*\n", out)
    assert err == ""  # no terminal
    few_steps(monkeypatch)
    assert main(["warmup", "--dtype", "float16", "uint8", "--forward"]) == 0
    assert capsys.readouterr().out.startswith("float16, uint8: nothing to compile; kept in ")


def test_processes_share_the_families_of_steps():
    seconds = {"boxes": 4.0, "separable": 9.0, "mesh": 17.0, "downsize": 10.0}
    steps = [_warmup.Step(f"{family} {n}", family, s, lambda: None) for n in range(2) for family, s in seconds.items()]
    assert _warmup._shares(steps, steps, 1) == [list(range(8))]
    assert _warmup._shares(steps, steps, 2) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert _warmup._shares(steps, steps, 9) == [[2, 6], [3, 7], [1, 5], [0, 4]]
    # What is on disk already is for this process.
    assert _warmup._shares(steps, [steps[1], steps[2]], 9) == [[0, 2, 3, 4, 6, 7], [1, 5]]
    assert _warmup._shares(steps, [], 9) == [list(range(8))]


ELSEWHERE = """
import json, os, sys, torch
from fastwarp import _compiling, _warmup
tally = _compiling.Tally()
boxes = _warmup.steps_of(torch.device("cpu"), torch.uint8, False)[0]
with _compiling.observed(tally), _warmup._compiling_elsewhere([torch.uint8], False, [0]) as wait:
    wait()
print(json.dumps([tally.kernels, len(os.listdir(sys.argv[1])), _warmup.missing([boxes])]))
"""


def test_another_process_compiles(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled, folders, missing = json.loads(done.stdout)
    assert (compiled >= 2, folders, missing) == (True, 1, [])


def test_kernels_that_cannot_be_kept_are_compiled_here(monkeypatch):
    few_steps(monkeypatch, lambda: None)
    monkeypatch.setattr(_warmup, "_keeps_kernels", lambda: False)
    monkeypatch.setattr(_warmup, "missing", lambda steps: steps)
    monkeypatch.setattr(_warmup, "_compiling_elsewhere", None)  # cannot be called
    fastwarp.warmup(processes=2, dtypes=[torch.float32, torch.float64])


@pytest.mark.parametrize("interpreter", ["/bin/false", "/nowhere/python"])
def test_without_another_process_all_is_compiled_here(interpreter, monkeypatch):
    ran = []
    few_steps(monkeypatch, lambda: ran.append(1))
    monkeypatch.setattr(sys, "executable", interpreter)
    monkeypatch.setattr(_warmup, "_shares", lambda steps, to_compile, processes: [[0], [1]])
    fastwarp.warmup(processes=2)
    assert len(ran) == 4  # once each to see what is missing


def test_a_terminal_sees_which_kernel_is_compiled(capsys, monkeypatch):
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: True)
    few_steps(monkeypatch, lambda: kernel()(1))
    assert main(["warmup", "--processes", "1"]) == 0
    lines = capsys.readouterr().err.split("\r\x1b[2K")
    shown = re.compile(r"1 of 2 done; torch\.float32: compiling invented \(1 kernels so far, \d+ s\)")
    assert any(shown.fullmatch(line) for line in lines)
    assert lines[-1] == ""  # wiped


def test_no_gpu_is_said_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["warmup", "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "fastwarp warmup: error: --device cuda: torch sees no GPU\n"
