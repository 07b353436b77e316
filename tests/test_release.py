"""`make release` in a clone, and the files by which others join."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def release(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "fastwarp").mkdir()
    for name in ("fastwarp/__init__.py", "CHANGELOG.md", "CITATION.cff"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def git(*words):
        return subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("config", "user.name", "Somebody")
    git("config", "user.email", "somebody@example.org")
    git("add", "-A")
    git("commit", "--quiet", "-m", "all")
    return module, git


def without_building(module, monkeypatch):
    honest = module.run

    def run(*command):
        if command[0] == "git":
            return honest(*command)
        (module.ROOT / "dist").mkdir(exist_ok=True)
        return ""

    monkeypatch.setattr(module, "run", run)


def test_a_release_is_tagged_and_the_changelog_dated(release, monkeypatch):
    module, git = release
    before = (module.ROOT / "CHANGELOG.md").read_text()
    without_building(module, monkeypatch)
    module.main("9.1.0")
    assert '__version__ = "9.1.0"' in (module.ROOT / "fastwarp/__init__.py").read_text()
    assert 'version: "9.1.0"' in (module.ROOT / "CITATION.cff").read_text()
    after = (module.ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]\n\n## \[9\.1\.0\] - \d{4}-\d\d-\d\d\n\n### Added$", after, re.MULTILINE)
    assert re.sub(r"## \[9\.1\.0\] - .*\n", "", after).replace("\n\n\n", "\n\n") == before
    assert git("log", "-1", "--format=%s") == "Release 9.1.0\n"
    tag = git("tag", "--list", "--format=%(contents)", "v9.1.0")
    assert tag.startswith("fastwarp 9.1.0\n\n### Added\n\n- ")
    with pytest.raises(SystemExit, match="nothing under"):
        module.main("9.2.0")
    with pytest.raises(SystemExit, match=r"there is a tag v9\.1\.0"):
        module.main("9.1.0")


def test_bad_versions_and_trees_are_refused(release):
    module, git = release
    for version, message in (("1.0", "expected MAJOR"), ("0.0.1", "older than")):
        with pytest.raises(SystemExit, match=message):
            module.main(version)
    (module.ROOT / "new.txt").write_text("")
    with pytest.raises(SystemExit, match="the tree has changes"):
        module.main("9.0.0")
    assert git("tag") == ""


def test_hooks_lint_with_the_version_that_is_pinned():
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert f"rev: v{pinned} " in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_oldest_versions_are_those_that_the_package_allows():
    text = (ROOT / "pyproject.toml").read_text()
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    oldest = re.search(r'install: "(torch==\S+ numba==\S+ numpy==\S+)"', workflow)
    for word in oldest[1].split():
        name, version = word.split("==")
        bound = re.search(rf'^    "{name}>=(.*)",$', text, re.MULTILINE)[1]
        assert version.startswith(bound)
