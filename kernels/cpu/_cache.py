"""Compiled kernels on disk: found again by the next process, and never used when anything in them has changed.

numba's own cache looks at the file of a kernel, not at the helpers in other files that are compiled into it. Here the
kernels of one state of the library lie in a directory named by a digest of everything that is compiled in, and a kernel
is one file, named by a digest of its name, its argument types and the processor. So there is no index that two
processes could write at once. The directories are looked through in this order:

* `$NUMBA_CACHE_DIR/fastwarp/<state>`, and nothing else, if that variable is set;
* `__pycache__/fastwarp/<state>` beside this file;
* `fastwarp/<state>` in the user's cache directory, `~/.cache` on Linux.

What is loaded is run, so a directory or a file that another user may have written is left alone (root may: images of
containers are filled by root). Where one directory belongs to somebody else, `fastwarp-<user id>` beside it serves.
A cache that cannot be read or written costs time, never an error.
"""

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import caching, compiler, serialize
from numba.misc.appdirs import AppDirs

import fastwarp

config: Any = numba.config

STATES = 4
"""States of the library that are kept, for those who change between versions. The oldest go first."""

_CACHE_DIR = "NUMBA_CACHE_DIR"
_DIGEST = hashlib.sha256().digest_size


def _state() -> str | None:
    """Digest of everything that is compiled into kernels; None where there are no sources to tell."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    if not sources:  # imported from a zip archive, or frozen
        return None
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] != _CACHE_DIR)
    versions = (fastwarp.__version__, numba.__version__, llvmlite.__version__, np.__version__, sys.version, settings)
    digest = hashlib.sha256(repr(versions).encode())
    for path in sources:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


_STATE = _state()  # now, while the files are what this process imports


def directories() -> list[Path]:
    """Where kernels of this state may lie, the best first."""
    if _STATE is None:
        return []
    if config.CACHE_DIR:
        parents = [Path(config.CACHE_DIR).absolute()]
    else:
        user = Path(AppDirs(appname="fastwarp", appauthor=False).user_cache_dir)
        parents = [Path(__file__).parent / "__pycache__", user.parent]
    names = ["fastwarp", f"fastwarp-{os.geteuid()}"] if hasattr(os, "geteuid") else ["fastwarp"]
    return [parent / name / _STATE for parent in parents if parent.is_absolute() for name in names]


def _trusted(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can have written what is there."""
    if not hasattr(os, "geteuid"):  # Windows: the profile of a user and an installation are closed to others
        return True
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_ours(directory: Path) -> bool:
    """Whether this is a directory, not a link to one, that can be trusted."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and _trusted(status)


def _read(path: Path) -> bytes | None:
    """Content of a file that `_write` wrote completely; None otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _trusted(status):
                return None
            content = file.read()
    except OSError:
        return None
    digest, payload = content[:_DIGEST], content[_DIGEST:]
    return payload if hashlib.sha256(payload).digest() == digest else None


def _write(directory: Path, name: str, payload: bytes) -> bool:
    """Puts a file into the directory of a state, whole or not at all; returns whether it is there."""
    try:
        directory.parent.parent.mkdir(parents=True, exist_ok=True)
        directory.parent.mkdir(mode=0o755, exist_ok=True)
        if not _is_ours(directory.parent):
            return False
        new = not directory.exists()
        directory.mkdir(mode=0o755, exist_ok=True)
        if not _is_ours(directory):
            return False
        descriptor, temporary = tempfile.mkstemp(dir=directory)
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.chmod(temporary, 0o644)
            os.replace(temporary, directory / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError:  # read-only, full, somebody else's
        return False
    if new:
        _drop_old_states(directory)
    return True


def _drop_old_states(newest: Path) -> None:
    with contextlib.suppress(OSError):
        states = [path for path in newest.parent.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name)]
        states.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in [path for path in states if path != newest][STATES - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def usable(directory: Path) -> bool:
    """Whether kernels of this state can be read or written there."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not all(_is_ours(path) for path in (directory, directory.parent) if path.exists()):
        return False
    return existing == directory or os.access(existing, os.W_OK)


class KernelCache(caching._Cache):
    """What numba asks for the compiled versions of one function, in place of its own cache."""

    def __init__(self, function: Callable[..., Any]) -> None:
        code = function.__code__
        assert function.__closure__ is None, "a closure's values are not part of the key"
        self._name = (function.__module__, function.__qualname__, code.co_firstlineno)
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The first directory that can be used; None if there is none."""
        return next((str(path) for path in directories() if usable(path)), None)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kernel for these argument types, or None."""
        target_context.refresh()  # numba's registries, which a kernel's code may refer to
        name = self._file(sig, target_context.codegen())
        for directory in directories() if self._enabled else ():
            payload = _read(directory / name) if _is_ours(directory.parent) and _is_ours(directory) else None
            if payload is not None:
                return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps a compiled kernel where that is possible."""
        if not self._enabled or data.library.has_dynamic_globals or any(not part.can_cache for part in data.lifted):
            return
        name, payload = self._file(sig, data.codegen), serialize.dumps(data._reduce())
        any(_write(directory, name, payload) for directory in directories())

    def _file(self, sig: Any, codegen: Any) -> str:
        key = hashlib.sha256(repr((self._name, sig, codegen.magic_tuple())).encode())
        return f"{self._name[1]}-{key.hexdigest()[:24]}.nbc"

    def enable(self) -> None:
        """Reads and writes from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Neither reads nor writes from now on."""
        self._enabled = False

    def flush(self) -> None:
        """Nothing: a kernel that is compiled again takes the place of its file."""


def keep(kernel: Any) -> Any:
    """Gives this cache to a kernel that numba compiles on its first call, if the kernel's file is among those that the
    state is made of (a test's is not)."""
    if Path(kernel.py_func.__code__.co_filename).parent == Path(__file__).parent:
        kernel._cache = KernelCache(kernel.py_func)
    return kernel
