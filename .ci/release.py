"""Prepares a release: `make release VERSION=0.2.0`. Uploads and pushes nothing.

Sets the version, dates the changelog, builds sdist and wheel, checks them by twine, commits and tags. What fails before
the commit leaves changed files, which `git checkout .` takes back.
"""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## [Unreleased]\n"


def numbers(version: str) -> tuple[int, ...]:
    """Of a version MAJOR.MINOR.PATCH."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SystemExit(f"VERSION is {version!r}, expected MAJOR.MINOR.PATCH")
    return tuple(map(int, version.split(".")))


def dated(changelog: str, version: str, day: str) -> tuple[str, str]:
    """The changelog with what was unreleased under the version, and that section's text."""
    head, _, rest = changelog.partition(UNRELEASED)
    section, _, older = rest.partition("\n## [")
    if not section.strip():
        raise SystemExit("CHANGELOG.md has nothing under [Unreleased]")
    older = f"\n## [{older}" if older else ""
    return f"{head}{UNRELEASED}\n## [{version}] - {day}\n{section}{older}", section.strip()


def replaced(text: str, pattern: str, version: str) -> str:
    """The text with the version where the pattern's only group is."""
    found = list(re.finditer(pattern, text, re.MULTILINE))
    if len(found) != 1:
        raise SystemExit(f"{pattern} is there {len(found)} times, expected once")
    return text[: found[0].start(1)] + version + text[found[0].end(1) :]


def run(*command: str) -> str:
    """Runs it in the repository; its output."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(version: str) -> None:
    """Everything, in this order."""
    package, changelog, citation = ROOT / "fastwarp/__init__.py", ROOT / "CHANGELOG.md", ROOT / "CITATION.cff"
    if run("git", "status", "--porcelain"):
        raise SystemExit("the tree has changes: commit them first")
    quoted = r"^__version__ = \"(.*)\"$"
    old = re.search(quoted, package.read_text(), re.MULTILINE)
    if old is not None and numbers(version) < numbers(old[1]):
        raise SystemExit(f"VERSION is {version}, older than {old[1]}")
    if run("git", "tag", "--list", f"v{version}"):
        raise SystemExit(f"there is a tag v{version}")
    text, section = dated(changelog.read_text(), version, datetime.date.today().isoformat())
    changelog.write_text(text)
    package.write_text(replaced(package.read_text(), quoted, version))
    citation.write_text(replaced(citation.read_text(), r"^version: \"(.*)\"$", version))
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    print(run(sys.executable, "-m", "build"))  # the wheel is built from the sdist
    packages = [str(path) for path in sorted((ROOT / "dist").iterdir())]
    print(run(sys.executable, "-m", "twine", "check", "--strict", *packages))
    run("git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    message = f"fastwarp {version}\n\n{section}"  # its headings begin with #, as comments of git do: verbatim
    run("git", "tag", "--annotate", f"v{version}", "--cleanup=verbatim", "--message", message)
    print(f"tagged v{version}; to publish: git push --follow-tags, twine upload dist/*")


if __name__ == "__main__":
    main(*sys.argv[1:])
