"""Pages of Markdown from kept runs: what the paper says, what was run, tables of ours beside the paper's, a plot."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from intervals import Difference, difference
from runs import Run

PAGES = Path(__file__).parent.parent / "docs" / "experiments"
Runs = Mapping[tuple[Any, int], Run]
Measure = Callable[[dict[str, Any]], float]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One set-up against another, paired by seed.

    Attributes:
        better: name of the set-up that is claimed to be better.
        worse: of the other.
        measure: name of the column.
        paper: what the paper has for this difference, as text.
        worse_measure: column of the other, if it is another.
        headline: whether it is in the summary of all experiments.
    """

    better: str
    worse: str
    measure: str
    paper: str = ""
    worse_measure: str = ""
    headline: bool = False

    @property
    def title(self) -> str:
        """For tables and plots."""
        if self.better == self.worse:
            return f"{self.better}: {self.measure} against {self.worse_measure}"
        return f"{self.measure}: {self.better} against {self.worse}"


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of set-ups and one of their differences.

    Attributes:
        heading: of the section.
        file: name of the file of runs in `results/`.
        setups: by name.
        measures: columns of the table, each from a run's metrics.
        comparisons: the rows of the second table.
        text: between heading and table.
    """

    heading: str
    file: str
    setups: Mapping[str, Any]
    measures: Mapping[str, Measure]
    comparisons: Sequence[Comparison]
    text: str = ""

    def values(self, runs: Runs, name: str, measure: str) -> dict[int, float]:
        """A measure of a set-up by seed, where there was something to measure."""
        setup, of = self.setups[name], self.measures[measure]
        found = {
            seed: of(run.metrics) for (one, seed), run in sorted(runs.items(), key=lambda x: x[0][1]) if one == setup
        }
        return {seed: value for seed, value in found.items() if value is not None and not math.isnan(value)}

    def difference(self, runs: Runs, comparison: Comparison) -> Difference:
        """Over the seeds that both have."""
        a = self.values(runs, comparison.better, comparison.measure)
        b = self.values(runs, comparison.worse, comparison.worse_measure or comparison.measure)
        seeds = sorted(a.keys() & b.keys())
        return difference([a[seed] for seed in seeds], [b[seed] for seed in seeds])


@dataclasses.dataclass(frozen=True)
class Page:
    """An experiment.

    Attributes:
        name: of its files.
        title: a question.
        says: what the paper says.
        ran: what was run.
        sections: tables.
        found: what agrees, what does not, and why as far as measured.
    """

    name: str
    title: str
    says: str
    ran: str
    sections: Sequence[Section]
    found: str = ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table in Markdown: as many columns of texts, then numbers, which are to the right."""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Found(NamedTuple):
    """A difference that was measured, for plot and summary."""

    page: Page
    section: Section
    comparison: Comparison
    difference: Difference


def write(page: Page, runs: Mapping[str, Runs], folder: Path = PAGES) -> list[Found]:
    """Writes a page and its plot, and returns what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    text, differences = [f"# {page.title}", "## What the paper says", page.says, "## What was run", page.ran], []
    for section in page.sections:
        kept = runs[section.file]
        rows = []
        for name in section.setups:
            columns = [section.values(kept, name, measure) for measure in section.measures]
            seeds = max(map(len, columns))
            if seeds:
                rows.append([name, str(seeds), *map(spread, columns)])
        if not rows:
            continue
        text += [f"## {section.heading}", section.text, table(["", "seeds", *section.measures], rows)]
        found = [(c, section.difference(kept, c)) for c in section.comparisons]
        found = [(c, d) for c, d in found if d.pairs > 1]
        if not found:
            continue
        paper = any(c.paper for c, _ in found)
        head = ["difference", "pairs", "mean [95 % interval]", *(["the paper's"] if paper else [])]
        rows = [[c.title, str(d.pairs), str(d), *([c.paper or "-"] if paper else [])] for c, d in found]
        text += ["Paired by seed; **bold** where the interval excludes zero.", table(head, rows)]
        differences += [Found(page, section, c, d) for c, d in found]
    if differences:
        plot(differences, folder / f"{page.name}.svg", page.title)
        text.append(f"![Differences with their 95 % intervals]({page.name}.svg)")
    text += ["## What agrees, what does not", page.found]
    (folder / f"{page.name}.md").write_text("\n\n".join(part.strip() for part in text if part) + "\n")
    return differences


def spread(values: Mapping[int, float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "-"
    sd = f" ± {statistics.stdev(values.values()):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values.values()):.2f}{sd}"


def plot(found: Sequence[Found], path: Path, title: str) -> None:
    """Each difference as a point with its interval, coloured where that excludes zero."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.hashsalt": "fastwarp", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.32 * len(found)), layout="constrained")
    for y, one in enumerate(reversed(found)):
        d = one.difference
        colour = "tab:blue" if d.claimed else "0.6"
        axes.plot([d.low, d.high], [y, y], color=colour)
        axes.plot(d.mean, y, "o", color=colour)
    axes.axvline(0, color="0.3", linewidth=0.8)
    labels = [f"{one.section.heading}: {one.comparison.title}" for one in reversed(found)]
    axes.set_yticks(range(len(found)), labels, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
