"""The documentation: its code runs, its links lead somewhere, its API pages have every public name."""

from __future__ import annotations

import re
import subprocess
import sys

import pages
import pytest

import fastwarp
from fastwarp import baselines, export, functional, nn, saliency, transforms, viz


@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.blocks(page)], ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.run(page)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_every_block_is_found(page):
    # What `blocks` overlooks would not be run: fences with more after "python", or indented ones.
    fences = re.findall(r"^ *```.*py.*$", page.read_text(), re.MULTILINE)
    assert fences == ["```python"] * sum(not block.hidden for block in pages.blocks(page))


def test_api_pages_have_every_public_name():
    modules = (fastwarp, functional, saliency, nn, transforms, export, viz, baselines)
    expected = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    expected -= {module.__name__ for module in modules}
    documented = [
        name
        for page in sorted((pages.ROOT / "docs" / "api").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(documented) == len(set(documented))
    assert set(documented) - {"fastwarp.attaching.adapter.Adapter"} == expected


def test_benchmarks_are_those_of_the_results():
    """In docs/performance.md and in the README: `python bench/page.py` writes them."""
    subprocess.run([sys.executable, pages.ROOT / "bench" / "page.py", "--check"], check=True, timeout=60)


def test_readme_is_short():
    assert len((pages.ROOT / "README.md").read_text().split()) <= 900


LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def test_links_of_the_readme_lead_somewhere():
    # Those of docs/ are looked at by `make docs`.
    for link in LINK.findall((pages.ROOT / "README.md").read_text()):
        assert (pages.ROOT / link).exists(), link
