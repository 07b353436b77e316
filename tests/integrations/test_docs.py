"""The code in the documentation that needs the frameworks: pages as whole, with all their blocks."""

from __future__ import annotations

import pages
import pytest

NEEDING = [page for page in pages.PAGES if any(block.needs for block in pages.blocks(page))]


@pytest.mark.parametrize("page", NEEDING, ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(block.runs or block.reason for block in pages.blocks(page)), "a module is missing"
    pages.run(page)
