"""The package as it is installed: what the wheel holds, what importing it loads, what it says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastwarp

ROOT = Path(__file__).resolve().parent.parent
# Where the files of a folder of the repository lie in the wheel.
ROOMS = {"fastwarp": "fastwarp", "kernels": "fastwarp/kernels", "reference": "fastwarp/reference"}


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def git_files(*options: str) -> set[str]:
    listed = run("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", *options).split("\0")
    return {name for name in listed if name and (ROOT / name).is_file()}


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a git checkout")
def test_wheel_holds_exactly_the_tracked_files(tmp_path: Path) -> None:
    pytest.importorskip("build")
    # A copy, because setuptools packs whatever an earlier build left in build/. Untracked files go along, so that a
    # file nobody has added yet is found here and not by the first user.
    source = tmp_path / "source"
    for name in git_files("--cached", "--others", "--exclude-standard"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")

    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if name.startswith(f"fastwarp-{fastwarp.__version__}.dist-info/")}
    rooms = {name: ROOMS[name.partition("/")[0]] for name in git_files() if name.partition("/")[0] in ROOMS}
    tracked = {room + "/" + name.partition("/")[2] for name, room in rooms.items()}
    packed = names - metadata
    assert packed == tracked, (
        f"not packed (list its folder in pyproject.toml): {sorted(tracked - packed)}; "
        f"not tracked (git add it): {sorted(packed - tracked)}"
    )
    assert "fastwarp/py.typed" in packed
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


def test_import_loads_only_torch_and_numpy() -> None:
    # What torch and numpy load depends on their versions, so the names are compared with those loaded without fastwarp.
    script = """
import sys
import numpy, torch
before = set(sys.modules)
import fastwarp
after = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(after - set(sys.stdlib_module_names)))
"""
    assert set(run(sys.executable, "-c", script).split()) <= {"fastwarp", "numpy", "torch"}


def test_kernels_and_reference_are_no_names_of_ours(tmp_path: Path) -> None:
    # Hugging Face has a package `kernels`, and `transformers` looks for it: our root must not be on sys.path. The
    # probe runs as under the command `pytest`, which, unlike `python -m pytest`, does not put the root there itself.
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "import importlib.util\n"
        "from pathlib import Path\n"
        "def test_names():\n"
        "    import fastwarp.kernels, fastwarp.reference\n"
        "    for name in ('kernels', 'reference'):\n"
        "        spec = importlib.util.find_spec(name)\n"
        f"        assert spec is None or not Path(spec.origin).is_relative_to({str(ROOT)!r}), spec\n"
    )
    script = "import sys, pytest; sys.path[:] = filter(None, sys.path); sys.exit(pytest.main(sys.argv[1:]))"
    run(sys.executable, "-c", script, "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider", probe)


def test_one_version_everywhere() -> None:
    version = fastwarp.__version__
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.search(rf"^version: \"?{re.escape(version)}\"?$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
