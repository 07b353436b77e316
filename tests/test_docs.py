"""The documentation: its code runs, its links lead somewhere, its API pages have every public name."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pages
import pytest

import fastwarp
from fastwarp import baselines, cli, export, functional, nn, saliency, transforms, viz


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
    returned = {"fastwarp.attaching.adapter.Adapter", "fastwarp.warp.frozen.FrozenWarp"}
    assert set(documented) == expected | returned


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


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [*pages.PAGES, pages.ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_commands_exist(page):
    """Those of fastwarp with their options, targets of make, scripts of Python."""
    targets = re.findall(r"^([a-z -]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE)
    plain = "".join(text for language, text in FENCE.findall(page.read_text()) if not language)
    for line in plain.splitlines():
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "fastwarp":
            cli._parser().parse_args(words[1:])
        elif words[:1] == ["make"]:
            assert any(words[1] in target.split() for target in targets), line
        scripts = [word for word in words if re.fullmatch(r"[a-z]+/\w+\.py", word)]
        assert all((pages.ROOT / script).exists() for script in scripts), line


def test_docstrings_have_sections_that_the_site_knows():
    # It takes "Example:" for prose, and its code for a quotation.
    for file in sorted(Path(fastwarp.__file__).parent.rglob("*.py")):
        assert not re.search(r"^ +(Example|Return|Raise|Arg|Attribute):$", file.read_text(), re.MULTILINE), file
