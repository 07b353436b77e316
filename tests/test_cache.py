"""Compiled kernels on disk, tried on a small library of a kernel and its helper in another file."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pickle
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from helpers import run_python
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

from fastwarp.kernels import cpu
from fastwarp.kernels.cpu import _cache

root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")

KERNEL = """
import numba
from fastwarp.kernels.cpu import _helper
from fastwarp.kernels.cpu._cache import keep

def answer(x):
    return x * _helper.factor()

answer = keep(numba.njit(answer))
"""

HELPER = """
import numba

@numba.njit
def factor():
    return {}
"""

USE = """
from fastwarp.kernels.cpu.kernel import answer
print(answer(1), answer(0.5), sum(answer.stats.cache_hits.values()))
"""


class Library:
    """A copy of the cache beside a kernel that is not worth much."""

    def __init__(self, folder: Path) -> None:
        self.root, self.rooms = folder / "site", folder / "site" / "fastwarp" / "kernels" / "cpu"
        self.kept = folder / "kept"
        self.rooms.mkdir(parents=True, exist_ok=True)
        (self.root / "fastwarp" / "__init__.py").write_text("__version__ = '1'")
        for room in (self.rooms.parent, self.rooms):
            (room / "__init__.py").write_text("")
        shutil.copy(_cache.__file__, self.rooms)
        (self.rooms / "kernel.py").write_text(KERNEL)
        self.change_helper(2)

    def change_helper(self, factor: int) -> None:
        (self.rooms / "_helper.py").write_text(HELPER.format(factor))

    def start(self, script: str = USE, **changes: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "NUMBA_CACHE_DIR": str(self.kept), **changes}
        command = [sys.executable, "-c", script]
        return subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True, cwd=self.root)

    def use(self, script: str = USE, **changes: str) -> list[float]:
        """The kernel's answers for 1 and 0.5, and how many of the two were on disk."""
        return _answers(self.start(script, **changes))

    def states(self) -> list[Path]:
        return sorted(path for path in (self.kept / "fastwarp").iterdir())

    def files(self) -> list[Path]:
        return sorted(path for path in self.kept.rglob("*") if path.is_file())


def _answers(process: subprocess.Popen[str]) -> list[float]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [float(word) for word in output.split()]


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


def _kernels() -> list[Dispatcher]:
    modules = [importlib.import_module(f"{cpu.__name__}.{m.name}") for m in pkgutil.iter_modules(cpu.__path__)]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)]


def test_every_kernel_is_kept_so():
    caches = [type(kernel._cache) for kernel in _kernels()]
    assert set(caches) == {_cache.KernelCache, NullCache}  # the latter for helpers
    assert caches.count(_cache.KernelCache) > 20


def test_the_key_covers_all_that_is_compiled_in():
    """Kernels and their helpers all lie in the folder whose files are digested."""
    assert {Path(inspect.getfile(kernel.py_func)).parent for kernel in _kernels()} == {Path(_cache.__file__).parent}


def test_kernels_of_other_files_are_not_kept():
    assert isinstance(_cache.keep(numba.njit(lambda: 1))._cache, NullCache)


def test_a_change_to_a_helper_in_another_file_counts(library):
    assert library.use() == [2, 1, 0]
    assert library.use() == [2, 1, 2]
    library.change_helper(6)
    assert library.use() == [6, 3, 0]
    library.change_helper(2)
    assert library.use() == [2, 1, 2]


def test_versions_and_settings_of_the_compiler_count(library):
    assert library.use() == [2, 1, 0]
    assert library.use(NUMBA_BOUNDSCHECK="1") == [2, 1, 0]
    (library.root / "fastwarp" / "__init__.py").write_text("__version__ = '2'")
    assert library.use() == [2, 1, 0]
    newer = "import llvmlite; llvmlite.__version__ += '.1'"
    assert library.use(newer + USE) == [2, 1, 0]
    assert len(library.states()) == 4


def test_old_states_do_not_pile_up(library):
    for i in range(10):
        old = library.kept / "fastwarp" / f"{i:016x}"
        old.mkdir(parents=True)
        (old / "kernel.nbc").touch()
        os.utime(old, (i, i))
    (library.kept / "fastwarp" / "other").mkdir()
    library.use()
    names = [path.name for path in library.states()]
    assert len(names) == _cache.STATES + 1
    assert {"other", f"{9:016x}", f"{8:016x}", f"{7:016x}"} < set(names)


def test_several_processes_fill_one_cache(library):
    """Each compiles for other types than the next one first."""
    swapped = USE.replace("answer(1), answer(0.5)", "*[answer(0.5), answer(1)][::-1]")
    processes = [library.start(swapped if i % 2 else USE) for i in range(4)]
    for process in processes:
        assert _answers(process)[:2] == [2, 1]
    assert library.use() == [2, 1, 2]
    assert len(library.files()) == 2  # nothing temporary is left


def test_beside_the_sources_or_in_the_home_directory(library, tmp_path):
    where = {"NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "home")}
    assert library.use(**where) == [2, 1, 0]
    assert len(list(library.rooms.glob("__pycache__/fastwarp/*/*.nbc"))) == 2
    shutil.rmtree(library.rooms / "__pycache__")
    (library.rooms / "__pycache__").touch()  # nothing can be written below it, by root neither
    assert library.use(**where) == [2, 1, 0]
    assert library.use(**where) == [2, 1, 2]
    assert len(list((tmp_path / "home" / "fastwarp").glob("*/*.nbc"))) == 2


def test_no_place_to_write(library):
    library.kept.touch()
    assert library.use() == [2, 1, 0]
    assert library.use(NUMBA_CACHE_DIR="/proc/nothing") == [2, 1, 0]


def test_a_read_only_cache_is_read(library):
    refuse = """
import errno, tempfile
def mkstemp(**options):
    raise OSError(errno.EROFS, "read-only file system")
tempfile.mkstemp = mkstemp
"""
    assert library.use(refuse + USE) == [2, 1, 0]
    assert library.files() == []
    library.use()
    assert library.use(refuse + USE) == [2, 1, 2]


def test_a_full_disk(library):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    pytest.importorskip("resource")
    assert library.use(full + USE, PYTHONDONTWRITEBYTECODE="1") == [2, 1, 0]
    assert library.files() == []
    assert library.use() == [2, 1, 0]


def test_a_damaged_file_is_compiled_again(library):
    library.use()
    short, wrong = library.files()
    short.write_bytes(short.read_bytes()[:-10])
    content = bytearray(wrong.read_bytes())
    content[100] ^= 1
    wrong.write_bytes(content)
    assert library.use() == [2, 1, 0]
    assert library.use() == [2, 1, 2]


class Trap:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (66,)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    """A library whose cache has been tampered with."""
    library = Library(tmp_path_factory.mktemp("trapped"))
    library.use()
    payload = pickle.dumps(Trap())
    for path in library.files():
        path.write_bytes(hashlib.sha256(payload).digest() + payload)
    assert library.start().wait(120) == 66, "the trap is not where kernels are loaded from"
    return library


def _writable_directory(library: Library) -> None:
    library.states()[0].chmod(0o777)


def _writable_parent(library: Library) -> None:
    (library.kept / "fastwarp").chmod(0o777)


def _writable_file(library: Library) -> None:
    for path in library.files():
        path.chmod(0o666)


def _link_to_directory(library: Library) -> None:
    state = library.states()[0]
    moved = state.rename(library.kept / "elsewhere")
    state.symlink_to(moved)


def _links_to_files(library: Library) -> None:
    for path in library.files():
        path.symlink_to(path.rename(library.kept / path.name))


def _foreign_directory(library: Library) -> None:
    os.chown(library.states()[0], 12345, 12345)


def _foreign_file(library: Library) -> None:
    for path in library.files():
        os.chown(path, 12345, 12345)


@pytest.mark.skipif(os.name == "nt", reason="no owners and modes")
@pytest.mark.parametrize(
    "expose",
    [
        _writable_directory,
        _writable_parent,
        _writable_file,
        _link_to_directory,
        _links_to_files,
        pytest.param(_foreign_directory, marks=root),
        pytest.param(_foreign_file, marks=root),
    ],
)
def test_what_others_may_have_written_is_not_run(trapped, tmp_path, expose):
    shutil.copytree(trapped.root.parent, tmp_path, dirs_exist_ok=True)
    library = Library(tmp_path)
    expose(library)
    assert library.use() == [2, 1, 0]
    if expose is _foreign_directory:
        assert library.use() == [2, 1, 2]  # in a directory of one's own


KEPT = """
import fastwarp
from fastwarp.kernels.cpu._cache import KernelCache

save = KernelCache.save_overload

def note(self, sig, data):
    if data.library.has_dynamic_globals:
        print(self._name)
    save(self, sig, data)

KernelCache.save_overload = note
fastwarp.warmup()
"""


def test_no_kernel_is_compiled_again_by_the_next_process():
    """None has an address of this process in its code, as that of a function that it passes on as an argument."""
    assert not run_python(KEPT)
