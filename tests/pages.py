"""The code in README.md and in docs/: what the tests of the documentation run.

A page's ```python blocks run in turn, as one script. Comments, which readers do not see, say more. On the line before
a block stands what it needs, `<!-- needs torchvision -->` (such blocks run with the integrations), or why it does not
run, `<!-- not run: REASON -->`. A comment that begins with the line `<!-- setup`, or `<!-- setup needs torchvision`,
is code: what blocks take for granted, such as a model of the reader's.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^<!-- setup(?: needs (?P<also>[\w ,]+))?\n(?P<hidden>.*?)^-->$"
    r"|^(?:<!-- (?:needs (?P<needs>[\w ,]+)|not run: (?P<reason>.+?)) -->\n\n?)?```python\n(?P<shown>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """Code of a page, with the number of its first line."""

    code: str
    line: int
    hidden: bool
    needs: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def runs(self) -> bool:
        return self.reason is None and all(importlib.util.find_spec(name) for name in self.needs)


def blocks(page: Path) -> list[Block]:
    text, found = page.read_text(), []
    for match in BLOCK.finditer(text):
        hidden = match["hidden"] is not None
        part, needs = "hidden" if hidden else "shown", re.findall(r"\w+", match["also"] or match["needs"] or "")
        found.append(Block(match[part], text.count("\n", 0, match.start(part)), hidden, tuple(needs), match["reason"]))
    return found


def run(page: Path) -> None:
    """Runs what can be run here; an error names the line of the page."""
    names = {"__name__": page.stem}
    for block in blocks(page):
        if block.runs:
            # As many empty lines first as there are lines before the block.
            exec(compile("\n" * block.line + block.code, str(page.relative_to(ROOT)), "exec"), names)
