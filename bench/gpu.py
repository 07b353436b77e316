"""Everything that ten minutes on a GPU can tell, step by step; `make gpu` and `make gpu-quick` call it.

Every step is a process of its own with a limit of time. Results are lines of JSON in `OUT/*.jsonl`, written as they
come: whatever ends the run, they are there. `--dry` takes every step on tiny inputs in Triton's interpreter, and leaves
out what only a GPU has: graphs, ncu, compute-sanitizer.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import importlib.util
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gpu_lines
import torch
from gpu_cases import DRY, Case, Scene, makers
from gpu_lines import write
from gpu_sweeps import SWEEPS, tuned

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {
    "versions": (30, "machine"),
    "doctor": (90, "machine"),
    "tests": (150, "tests"),
    "compile": (60, "machine"),
    "table": (150, "table"),
    "sweeps": (80, "sweeps"),
    "counters": (70, "counters"),
    "sanitizer": (60, "counters"),
    "benchmarks": (240, "benchmarks"),
}
"""Most seconds of each step, in their order, and the file of its results; the whole ends after `--seconds`."""

QUICK = ("versions", "doctor", "tests")
STOPS = ("versions", "doctor")
"""Steps without which the others tell nothing."""

COUNTED = (
    "zoom fp32",
    "unzoom fp32, contiguous",
    "mesh positions, unzoom",
    "downsize bf16",
    "separable adjoint, contiguous",
)
PROCESSES = 12
ROTATED = 256 << 20  # bytes of inputs to rotate through: several times the L2


def scene(dry: bool) -> Scene:
    return DRY if dry else Scene("cuda")


# --- time -------------------------------------------------------------------------------------------------------------


class Timer:
    """Microseconds of a call: by the replay of a graph, and eager; in a dry run by the clock."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry

    def sets(self, make: Callable[[], Callable[[], Any]], moved: int) -> list[Callable[[], Any]]:
        """Calls with inputs of their own, together more than the L2 holds."""
        return [make() for _ in range(1 if self.dry else min(max(ROTATED // max(moved, 1), 1), 31) + 1)]

    def replayed(self, calls: Sequence[Callable[[], Any]]) -> float | None:
        """Of a call, by device events around the replay of a graph of one call for each set of inputs."""
        if self.dry:
            return self.eager(calls)
        from paired import _graph

        replay = _graph(calls)
        replay()
        times = []
        for _ in range(20):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replay()
            end.record()
            end.synchronize()
            times.append(1e3 * start.elapsed_time(end) / len(calls))
        return round(sorted(times)[len(times) // 2], 2)

    def eager(self, calls: Sequence[Callable[[], Any]]) -> float:
        """Of a call among many that nobody waits for: what the host takes, if that is longer."""
        count = 2 if self.dry else 100
        for i in range(3):
            calls[i % len(calls)]()
        self.wait()
        start = time.perf_counter()
        for i in range(count):
            calls[i % len(calls)]()
        self.wait()
        return round(1e6 * (time.perf_counter() - start) / count, 2)

    def launches(self, call: Callable[[], Any]) -> int | None:
        """Kernels and copies of a call."""
        if self.dry:
            return None
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            self.wait()
        return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in profile.events())

    def wait(self) -> None:
        """Until the GPU has done everything."""
        if not self.dry:
            torch.cuda.synchronize()


def ceiling(timer: Timer) -> float:
    """Bytes per microsecond of a copy, read and written."""
    count = 64 if timer.dry else 1 << 28
    source = torch.ones(count, device=scene(timer.dry).device)
    target = torch.empty_like(source)
    return 8 * count / (timer.replayed([lambda: target.copy_(source)]) or 1.0)


# --- steps ------------------------------------------------------------------------------------------------------------


def versions(dry: bool) -> None:
    """Versions, the ceilings of a copy and of a bf16 product, what an empty launch costs."""
    from fastwarp import doctor

    if not dry and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU")
    gpu = None if dry else torch.cuda.get_device_properties(0)
    name = (
        None if gpu is None else {"name": gpu.name, "memory": gpu.total_memory, "processors": gpu.multi_processor_count}
    )
    write(versions=doctor.versions(), gpu=name, cuda=torch.version.cuda, cores=os.cpu_count())
    timer, device = Timer(dry), scene(dry).device
    write(copy_bytes_per_us=ceiling(timer))
    side = 32 if dry else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    write(bf16_tflops=2e-6 * side**3 / (timer.replayed([lambda: a @ b]) or 1.0))
    one = torch.zeros(1, device=device)
    calls = [lambda: one.add_(1)] * 20
    write(empty_launch_us={"eager": timer.eager(calls), "graph": timer.replayed(calls)})


def check(dry: bool) -> None:
    """The self-check of `fastwarp doctor`, but for the CPU, which would compile: whether results are right at all."""
    from fastwarp import doctor

    if not dry:
        report = doctor._examine_device(torch.device("cuda", 0))
        write(**report)
        if report["check"] != "OK":
            raise SystemExit(report["message"])


def _pytest(folder: str, *arguments: str, workers: int) -> None:
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", ROOT / folder, "-q", "-p", "gpu_lines"]
    if workers and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers)]
    done = subprocess.run([str(part) for part in (*command, *arguments)])
    if done.returncode not in (0, 5):  # 5: no tests
        raise SystemExit(done.returncode)


def tests(dry: bool) -> None:
    """The GPU tests, without those that only compile, which need no GPU."""
    only = ["-k", "test_gpus_refuse"] if dry else ["-m", "gpu", "-k", "not compile and not fused"]
    _pytest("tests/test_gpu_launch.py" if dry else "tests", *only, workers=0 if dry else PROCESSES)


def _once(job: tuple[str, str, bool]) -> str:
    kind, name, dry = job
    if kind == "case":
        makers(scene(dry))[name]().call()()
    else:
        for _ in tuned(name, scene(dry)):
            pass
    return name


def compile_all(dry: bool) -> None:
    """Compiles, in many processes, all that the next steps launch."""
    jobs = [("case", name, dry) for name in chosen(dry)]
    jobs += [("sweep", name, dry) for name in SWEEPS if name in chosen(dry)]
    if dry:
        for job in jobs:
            write(compiled=_once(job))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, context) as pool:
        futures = {pool.submit(_once, job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            error = future.exception()
            write(compiled=futures[future][1], error=None if error is None else repr(error)[-500:])


def chosen(dry: bool) -> list[str]:
    """Names of the cases: those that the environment variable CASES names, with semicolons between them, or all."""
    wanted = os.environ.get("CASES")
    return wanted.split(";") if wanted else list(makers(scene(dry)))


def table(dry: bool) -> None:
    """Operator by operator: time by a graph and eager, share of the floor, launches, the peers."""
    timer = Timer(dry)
    rate = ceiling(timer)
    for name in chosen(dry):
        try:
            write(**_row(name, makers(scene(dry))[name](), timer, rate))
        except Exception as error:  # the others are worth as much
            write(op=name, error=repr(error)[-500:])


def _row(name: str, case: Case, timer: Timer, rate: float) -> dict[str, Any]:
    from paired import agree

    calls = timer.sets(case.call, case.moved)
    ours = calls[0]()
    found: dict[str, Any] = {"op": name, "us": timer.replayed(calls), "eager_us": timer.eager(calls)}
    found["floor_us"] = round(case.moved / rate, 2)
    found["share"] = round(found["floor_us"] / max(found["us"], 0.01), 3)
    found["launches"] = timer.launches(calls[0])
    for peer, make in case.peers.items():
        try:
            torch.manual_seed(0)
            theirs = timer.sets(make, case.moved)
            torch.manual_seed(0)
            same = case.call()()
            found[peer] = {"us": timer.replayed(theirs), "apart": agree(same, theirs[0](), case.tolerance, peer)}
        except Exception as error:
            found[peer] = repr(error)[-300:]
    del ours
    return found


def sweeps(dry: bool) -> None:
    """Sizes of blocks, warps and stages, and the two ways of a DownsizeNet's layer before the last."""
    timer = Timer(dry)
    for name in (name for name in SWEEPS if name in chosen(dry)):
        try:
            for setting, calls in tuned(name, scene(dry)):
                write(sweep=name, us=timer.replayed(calls) if calls else None, **setting)
        except Exception as error:
            write(sweep=name, error=repr(error)[-500:])


def one(name: str, dry: bool) -> None:
    """A case once more after it has compiled, between marks that a profiler sees."""
    call = makers(scene(dry))[name]().call()
    call()
    if not dry:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
    call()
    if not dry:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def counters(dry: bool) -> None:
    """Hardware counters of one launch each."""
    names = chosen(dry)[:1] if dry else COUNTED
    tool = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "details"]
    for section in ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats"):
        tool += ["--section", section]
    for name in names:
        done = _tool([] if dry else [*tool, "-k", "regex:.*_kernel"], "one", name, dry)
        write(counters=name, rc=done.returncode, error=done.stderr[-500:], kernels=list(_counted(done.stdout)))


def _counted(text: str) -> Iterator[dict[str, str]]:
    """Metrics of each kernel in the CSV of ncu, which comes after other lines."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    kernels: dict[str, dict[str, str]] = {}
    for line in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        found = kernels.setdefault(line["ID"], {"kernel": line["Kernel Name"]})
        found[line["Metric Name"]] = f"{line['Metric Value']} {line['Metric Unit']}".strip()
    yield from kernels.values()


def _tool(prefix: list[str], what: str, name: str, dry: bool) -> Any:
    command = [*prefix, sys.executable, str(Path(__file__)), what, "--name", name, *(["--dry"] if dry else [])]
    if prefix and not shutil.which(prefix[0]):
        return subprocess.CompletedProcess(command, 127, "", f"{prefix[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True)


def small(dry: bool) -> None:
    """A small call of every launcher."""
    if dry:
        for name in chosen(dry)[:1]:
            makers(DRY)[name]().call()()
        return
    import fastwarp

    fastwarp.warmup("cuda", (torch.float32, torch.bfloat16))
    torch.cuda.synchronize()


def sanitizer(dry: bool) -> None:
    """Memcheck and racecheck of small calls of all launchers, both at once."""
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

    def run(tool: str) -> dict[str, Any]:
        prefix = ["compute-sanitizer", "--tool", tool, "--kernel-regex", "kernel_substring=_kernel"]
        done = _tool([] if dry else [*prefix, "--error-exitcode", "9"], "small", "", dry)
        return {"sanitizer": tool, "rc": done.returncode, "text": (done.stdout + done.stderr)[-2000:]}

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, tool) for tool in ("memcheck", "racecheck")]
        for future in concurrent.futures.as_completed(futures):
            write(**future.result())


def benchmarks(dry: bool) -> None:
    """The rest: every GPU benchmark, as far as the time goes."""
    if not dry:
        _pytest("bench", "-m", "gpu", workers=0)


STEPS: dict[str, Callable[[bool], None]] = {
    "versions": versions,
    "doctor": check,
    "tests": tests,
    "compile": compile_all,
    "table": table,
    "sweeps": sweeps,
    "counters": counters,
    "sanitizer": sanitizer,
    "benchmarks": benchmarks,
}


# --- all of them ------------------------------------------------------------------------------------------------------


def run(steps: Sequence[str], out: Path, seconds: float, dry: bool) -> int:
    """Every step in a process of its own; the number of those that failed."""
    out.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, TEARDOWN_CUPTI="0", PYTHONUNBUFFERED="1")
    environment.setdefault("TRITON_CACHE_DIR", str(out.resolve() / "triton"))
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    if dry:
        environment |= {"TRITON_INTERPRET": "1", "FASTWARP_BACKEND": "triton"}
    begin, failed = time.monotonic(), 0
    for name in ("steps", *(LIMITS[step][1] for step in steps)):
        (out / f"{name}.jsonl").unlink(missing_ok=True)
    for step in steps:
        limit = min(LIMITS[step][0], seconds - (time.monotonic() - begin))
        if limit < 5:
            print(f"{step}: no time left")
            continue
        lines = out / f"{LIMITS[step][1]}.jsonl"
        before = len(gpu_lines.read(lines))
        environment[gpu_lines.FILE] = str(lines.resolve())
        start = time.monotonic()
        code = _limited([sys.executable, str(Path(__file__)), step, *(["--dry"] if dry else [])], environment, limit)
        taken = round(time.monotonic() - start, 1)
        found = gpu_lines.read(lines)[before:]
        write(out / "steps.jsonl", step=step, rc=code, seconds=taken, limit=round(limit, 1), lines=len(found))
        print(f"{step}: {'ok' if code == 0 else f'exit code {code}'} after {taken} s", flush=True)
        for line in found:
            if line.get("outcome") != "passed":
                print("   ", *(f"{key}={value}" for key, value in line.items()), flush=True)
        failed += code != 0
        if code != 0 and step in STOPS:
            break
    return failed


def _limited(command: list[str], environment: dict[str, str], seconds: float) -> int:
    """The exit code; 124 after `seconds`, when the process and all that it started are ended."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return 124


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["all", "quick", *STEPS, "one", "small"])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "gpu")
    parser.add_argument("--steps", help="names of steps, with commas between them")
    parser.add_argument("--seconds", type=float, default=590.0)
    parser.add_argument("--dry", action="store_true", help="tiny inputs in Triton's interpreter")
    parser.add_argument("--name", help="of a case, for `one`")
    given = parser.parse_args()
    if given.step in ("all", "quick"):
        steps = given.steps.split(",") if given.steps else QUICK if given.step == "quick" else list(STEPS)
        sys.exit(run(steps, given.out, given.seconds, given.dry))
    if given.step == "one":
        one(given.name, given.dry)
    elif given.step == "small":
        small(given.dry)
    else:
        STEPS[given.step](given.dry)


if __name__ == "__main__":
    main()
