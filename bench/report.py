"""Turns the JSON of a benchmark run into Markdown: `python bench/report.py bench/results/cpu.json`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIB = 1 << 20
OURS = "fastwarp"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of `make bench`")
    for path in parser.parse_args().results:
        print("\n".join(_report(json.loads(path.read_text()))))


def _report(run: dict[str, Any]) -> Iterator[str]:
    cases = [case for case in run["benchmarks"] if "contenders" in case.get("extra_info", {})]
    yield from machine(run, cases)
    yield from _targets(cases)
    yield from losses(cases)
    yield from kept(cases)
    yield from _times(cases)


def machine(run: dict[str, Any], cases: list[dict[str, Any]]) -> Iterator[str]:
    machine = run["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", machine.get("machine"))
    gpu = f"; {machine['gpu']['name']}, CUDA {machine['versions']['cuda']}" if machine.get("gpu") else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    commit = run.get("commit_info", {})
    dirty = " with local changes" if commit.get("dirty") else ""
    yield f"# Benchmarks of {run['datetime'][:10]}\n"
    yield f"- machine: {cpu}, {machine['cores']} cores, {machine['threads']} threads used{gpu}"
    yield f"- versions: Python {machine['python_version']}, {versions}"
    yield f"- commit: {commit.get('id', '')[:12]}{dirty}"
    loads = [case["extra_info"]["load"] for case in cases]
    yield f"- load average of the machine during the run: {min(loads)} to {max(loads)}, the benchmarks' own included\n"


def _targets(cases: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Targets\n"
    yield (
        "Measured: time of the peer / time of fastwarp, median of the rounds' ratios; beside it the ratio of the "
        "fastest rounds, which other work on the machine disturbs least. First calls: the same of calls that find "
        "caches as another contender left them.\n"
    )
    yield "| case | against | target | measured | of fastest | first calls | met |\n|---|---|---:|---:|---:|---:|---|"
    for case in cases:
        info = case["extra_info"]
        for name, target in info["targets"].items():
            times = info["contenders"][name]
            row = [title(case), name, f"{target:.2f}x", f"{times['ratio']:.2f}x", f"{times['ratio_of_fastest']:.2f}x"]
            row.append(f"{info['first_calls'][name]['ratio']:.2f}x" if info["first_calls"] else "")
            yield f"| {' | '.join(row)} | {'yes' if times['ratio'] >= target else '**no**'} |"
    yield ""


def losses(cases: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Slower than a peer\n"
    for state, key in (("", "contenders"), ("in its first call, ", "first_calls")):
        found = False
        for case in cases:
            info = case["extra_info"]
            for name, times in info[key].items():
                if is_peer(info, name) and times["ratio"] < 1:
                    found = True
                    yield f"- {state}{title(case)}: {name} takes {times['ratio']:.2f} of fastwarp's time"
        yield "" if found else f"- {state}none\n"


def kept(cases: list[dict[str, Any]]) -> Iterator[str]:
    cases = [case for case in cases if "kept" in case["extra_info"]]
    if not cases:
        return
    yield "## Memory of backward passes\n"
    yield (
        "Kept: what the forward pass leaves for the backward pass beside its inputs. Peak: of both passes together, "
        "results and gradients included. Shares are of the peer's; at most 5 % kept is the aim.\n"
    )
    yield "| case | contender | kept MiB | share | peak MiB | share |\n|---|---|---:|---:|---:|---:|"
    for case in cases:
        info = case["extra_info"]
        peaks = {name: info["contenders"][name]["peak"] for name in info["kept"]}
        for name in info["kept"]:
            first = name == OURS
            row = [title(case) if first else "", f"**{name}**" if first else name]
            for values in (info["kept"], peaks):
                peer = max(values[other] or 0 for other in values if other != OURS)
                row.append("" if values[name] is None else f"{values[name] / MIB:.1f}")
                row.append(f"{100 * values[name] / peer:.1f} %" if first and values[name] is not None and peer else "")
            yield f"| {' | '.join(row)} |"
    yield ""


def _times(cases: list[dict[str, Any]]) -> Iterator[str]:
    launches = any("launches" in case["extra_info"]["contenders"][OURS] for case in cases)
    yield "## Times\n"
    yield (
        "Median and interquartile range; ratio as above with its quartiles; first: median of first calls; GB/s of the "
        "bytes that must move; "
        "% of copy: against a copy of as many bytes, timed in the same rounds; peak: memory of a call, results "
        "included; apart: largest difference from fastwarp's result, relative to the largest value.\n"
    )
    columns = [
        "case",
        "MiB to move",
        "contender",
        "ms",
        "IQR",
        "fastest",
        "ratio",
        "first",
        "GB/s",
        "% of copy",
        "peak MiB",
        "apart",
    ]
    columns += ["launches"] if launches else []
    yield "| " + " | ".join(columns) + " |\n|---|---:|---|" + "---:|" * (len(columns) - 3)
    for case in cases:
        info = case["extra_info"]
        copy = info["contenders"]["copy"]
        for name, times in info["contenders"].items():
            first = name == OURS
            row = [
                title(case) if first else "",
                f"{info['moved'] / MIB:.2f}" if first else "",
                f"**{name}**" if first else name,
                f"{1e3 * times['median']:.3f}",
                f"{1e3 * times['iqr']:.3f}",
                f"{1e3 * times['fastest']:.3f}",
                "" if first else f"{times['ratio']:.2f}x ({times['ratio_low']:.2f}-{times['ratio_high']:.2f})",
                f"{1e3 * info['first_calls'][name]['median']:.3f}" if info["first_calls"] else "",
                f"{1e-9 * info['moved'] / times['median']:.1f}",
                f"{100 * (copy['ratio'] if first else copy['median'] / times['median']):.0f}",
                "" if times["peak"] is None or name == "copy" else f"{times['peak'] / MIB:.1f}",
                "" if times["apart"] is None else f"{times['apart']:.1e}",
            ]
            row += [str(times.get("launches", ""))] if launches else []
            yield "| " + " | ".join(row) + " |"
    yield ""


def is_peer(info: dict[str, Any], name: str) -> bool:
    """Peers returned the same results, so they have a difference from ours, or are there to be beaten."""
    return not name.startswith(OURS) and (info["contenders"][name]["apart"] is not None or name in info["targets"])


def title(case: dict[str, Any]) -> str:
    return case["name"].removeprefix("test_")


if __name__ == "__main__":
    main()
