"""Files that people name: which are read, how they are written, and how what they say is shown."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from fastwarp.errors import FastwarpError


def size_of(path: Path) -> int:
    """Bytes of a file that can be read to its end, or FastwarpError: pipes and devices may never begin or end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if stat.S_ISDIR(status.st_mode):
        raise FastwarpError(f"cannot read {path}: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise FastwarpError(f"cannot read {path}: it is not a regular file")
    return status.st_size


def unreadable(path: Path, error: Exception) -> FastwarpError:
    """The error for a file or folder that cannot be read."""
    return FastwarpError(f"cannot read {path}: {_reason(error)}")


def unwritable(path: Path, error: Exception) -> FastwarpError:
    """The error for a file that cannot be written."""
    return FastwarpError(f"cannot write {path}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def write_whole(contents: dict[Path, bytes]) -> None:
    """Writes files, all of them or none: what had these names stays until everything is on the disk.

    Raises:
        FastwarpError: one of them cannot be written.
    """
    written: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(None, "Is a directory")
            # In the same folder, as names can only be given within a file system; and short, whatever the file's name.
            temporary = path.with_name(f".fastwarp-{secrets.token_hex(4)}")
            with temporary.open("xb") as file:
                written[path] = temporary
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in written.items():
            os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def shown(text: str) -> str:
    """`text` on one line of a terminal: what could steer it, or cannot be seen, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
