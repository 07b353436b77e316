"""Times fastwarp and its peers in turns, after asserting that they agree.

Machines are shared and their clocks move, so peers are not timed one after the other: every round times each contender
once, in changing order, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import ctypes
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_lines import write
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]
Calls = dict[str, list[Callable[[], Any]]]

OURS = "fastwarp"
SECONDS = {"cpu": 1.2, "cuda": 1.0}  # of rounds, for a case
ROUNDS = (11, 300)
UNTIMED = (5, 0.02)  # calls before a timed one, or seconds of them: until caches are those of a loop
ROTATED = 256 << 20  # bytes of inputs to rotate through on a GPU: several times its L2


def paired(
    benchmark: Any,
    contenders: Mapping[str, Function],
    inputs: Callable[[], Sequence[Any]],
    *,
    moved: int,
    tolerance: float,
    targets: Mapping[str, float] | None = None,
    alone: Mapping[str, Function] | None = None,
) -> None:
    """Compares, times, and writes the result into `benchmark.extra_info`.

    Args:
        benchmark: pytest-benchmark's fixture; its own table shows fastwarp's times.
        contenders: functions of the inputs that must all return the same; the first is fastwarp.
        inputs: makes a set of inputs, all on one device. A GPU rotates through several.
        moved: bytes that have to move. A copy of as many bytes is a contender too, called "copy".
        tolerance: largest difference of the results, relative to their largest value.
        targets: by name, how many times faster than that contender fastwarp is meant to be. Reported, not asserted.
        alone: further contenders that do something else, such as the forward pass alone.
    """
    first = inputs()
    device = next(x.device for x in first if isinstance(x, Tensor))
    ours = contenders[OURS](*first)
    apart = {name: agree(ours, f(*first), tolerance, name) for name, f in contenders.items() if name != OURS}
    del ours
    if benchmark.disabled:
        benchmark(lambda: None)
        return
    sets = [first]
    if device.type == "cuda":
        size = sum(x.numel() * x.element_size() for x in first if isinstance(x, Tensor))
        sets += [inputs() for _ in range(min(max(ROTATED // size, 1), 31))]
    functions = {**contenders, **(alone or {})}
    calls: Calls = {name: [functools.partial(f, *one) for one in sets] for name, f in functions.items()}
    calls["copy"] = [_copy(moved, device) for _ in sets]
    extra = {name: _extra(several[0], device) | {"apart": apart.get(name)} for name, several in calls.items()}
    times, firsts = (_gpu(benchmark, calls), {}) if device.type == "cuda" else _cpu(benchmark, calls)
    benchmark.extra_info.update(
        device=device.type,
        moved=moved,
        rounds=len(times[OURS]),
        load=round(os.getloadavg()[0], 1),
        targets=dict(targets or {}),
        contenders={name: _summary(taken, times[OURS]) | extra[name] for name, taken in times.items()},
        first_calls={name: _summary(taken, firsts[OURS]) for name, taken in firsts.items()},
    )
    write(benchmark=benchmark.fullname, **benchmark.extra_info)


def trained(function: Function, wanted: Sequence[int]) -> Function:
    """`function` followed by its backward pass to the inputs numbered `wanted`; returns results and gradients."""
    # Incoming ones for each set of inputs, made in the first call.
    gradients: dict[int, list[Tensor]] = {}

    def run(*inputs: Any) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() if i in wanted else x for i, x in enumerate(inputs)]
        results = function(*leaves)
        key = inputs[-1].data_ptr()
        if key not in gradients:
            gradients[key] = [_gradient(r) for r in results]
        found = torch.autograd.grad(results, [leaves[i] for i in wanted], gradients[key])
        # The end knots put samples exactly on the border, a kink where grid_sample takes the gradient 0.
        return [r.detach() for r in results] + [g[:, 1:-1] if g.dim() == 2 else g for g in found]

    return run


def _gradient(result: Tensor) -> Tensor:
    """The same values of mixed sign for every contender, in its own layout."""
    values = torch.rand(result.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return torch.empty_like(result).copy_(values)


def agree(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float, name: str) -> float:
    """Asserts that results differ by no more than `tolerance` of their largest value, bytes by one more.

    Returns:
        The largest difference, relative to the largest value.
    """
    assert len(ours) == len(theirs)
    worst = 0.0
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == other.shape
        difference = (mine.to(other.dtype).float() - other.float()).abs_().max().item()
        scale = other.abs().max().item()
        bound = tolerance * scale + (other.dtype == torch.uint8)
        assert difference <= bound, f"result {index}: {name} is {difference} away, more than {bound}"
        worst = max(worst, difference / scale)
    return float(f"{worst:.1e}")


def _copy(moved: int, device: torch.device) -> Callable[[], Tensor]:
    source = torch.ones(max(moved // 8, 1), device=device)
    return functools.partial(torch.empty_like(source).fill_(0).copy_, source)


# --- time -------------------------------------------------------------------------------------------------------------


def _rounds(one: float, seconds: float) -> int:
    return int(min(max(seconds / one, ROUNDS[0]), ROUNDS[1]))


def _in_turn(names: Sequence[str], turn: int) -> list[str]:
    return [*names[turn % len(names) :], *names[: turn % len(names)]]


def _cpu(benchmark: Any, calls: Calls) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """pytest-benchmark times fastwarp; the others run, timed in the same way, in the set-up of each of its rounds.

    Returns:
        times of calls that follow untimed ones of the same contender, so that caches, and threads that sleep or spin,
        are those of a loop; and times of the first of those, which found caches as another contender left them.
    """
    others = [name for name in calls if name != OURS]
    times: dict[str, list[float]] = {name: [] for name in others}
    firsts: dict[str, list[float]] = {name: [] for name in calls}

    def run_untimed(name: str) -> None:
        call = calls[name][0]
        firsts[name].append(_time(call))
        most, seconds = UNTIMED
        for _ in range(int(min(max(seconds / firsts[name][-1], 1), most)) - 1):
            call()

    def run_others() -> None:
        for name in _in_turn(others, len(times[others[0]])):
            run_untimed(name)
            times[name].append(_time(calls[name][0]))
        run_untimed(OURS)

    rounds = _rounds(_time(run_others), SECONDS["cpu"])
    for taken in (*times.values(), *firsts.values()):
        taken.clear()
    benchmark.pedantic(calls[OURS][0], setup=run_others, rounds=rounds)
    return {OURS: list(benchmark.stats.stats.data), **times}, firsts


def _time(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _gpu(benchmark: Any, calls: Calls) -> dict[str, list[float]]:
    """Seconds for a call by device events around the replay of a CUDA graph of one call for each set of inputs."""
    replays = {name: _graph(several) for name, several in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}

    def run_all() -> None:
        for name in _in_turn(list(calls), len(times[OURS])):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replays[name]()
            end.record()
            end.synchronize()
            times[name].append(1e-3 * start.elapsed_time(end) / len(calls[name]))

    def ours() -> None:
        replays[OURS]()
        torch.cuda.synchronize()

    run_all()  # uploads the graphs
    rounds = _rounds(_time(run_all), SECONDS["cuda"])
    for taken in times.values():
        taken.clear()
    benchmark.pedantic(ours, setup=run_all, rounds=rounds)
    return times


def _graph(calls: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    """Captures the calls, each with results of its own, so that writes rotate too."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call() for call in calls]

    def replay(results: Any = results) -> None:  # the results live as long as the graph writes to them
        graph.replay()

    return replay


def _summary(taken: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
    ratios = [theirs / mine for theirs, mine in zip(taken, ours, strict=True)]
    ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4, method="inclusive")
    values = {
        "median": median,
        "iqr": high - low,
        "fastest": min(taken),
        "ratio": ratio,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
        "ratio_of_fastest": min(taken) / min(ours),
    }
    return {key: float(f"{value:.4g}") for key, value in values.items()}


# --- memory and launches ----------------------------------------------------------------------------------------------


def _extra(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Highest memory use during a call beyond what was there before, results included; on GPUs, launches too."""
    call()
    if device.type == "cuda":
        return _extra_gpu(call)
    return {"peak": _resident_peak(call)}


def _extra_gpu(call: Callable[[], Any]) -> dict[str, Any]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    peak = torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return {"peak": peak, "launches": len(on_device)}


def _resident_peak(call: Callable[[], Any]) -> int | None:
    """By how much the resident memory of the process rises during a call, whoever allocates; Linux only."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator keeps would not count
    reset.write_text("5")
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
