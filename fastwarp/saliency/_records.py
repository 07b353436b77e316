"""Tables and annotations in JSON, read piece by piece: such files are larger than memory should be spent on."""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastwarp._checks import MOST
from fastwarp._files import unreadable
from fastwarp.errors import FastwarpError

Progress = Callable[[int, int], None]
"""Gets the amount that is done and the whole amount."""

PIECE = 1 << 20
"""Bytes read at a time."""

LONGEST = 1 << 28
"""Characters of a single value: such a value is in memory as a whole."""

TOGETHER = 256
"""Records handed out at a time: with many more, the garbage collector costs as much as the decoding."""

_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_SPACES = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class Meter:
    """Adds up what several passes have done, and tells it.

    Args:
        progress: whom to tell; None: nobody.
        total: of all passes.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, amount: int) -> None:
        """Tells that `amount` more is done."""
        self.reach(self.done + amount)

    def reach(self, done: int) -> None:
        """Tells that `done` is done in all."""
        self.done = done
        if self.progress is not None:
            self.progress(done, self.total)


def read(
    path: Path, sections: tuple[str, ...], meter: Meter, *, stop: bool = False
) -> Iterator[tuple[str, int, list[Any]]]:
    """The records of arrays in a JSON file, some at a time: no more of it is in memory.

    Args:
        path: the file: an object whose values are arrays of records, or such an array itself.
        sections: the keys of the arrays that are handed out; "" is the one that is the file itself.
        meter: is told how many bytes were read.
        stop: look no further once all sections were there.

    Yields:
        (section, how many of its records there were before, the next ones).

    Raises:
        FastwarpError: a file that cannot be read, or is not JSON: names the record that is not.
    """
    try:
        with path.open("rb") as file:
            yield from _Text(path, file, meter).records(sections, stop)
    except OSError as error:
        raise unreadable(path, error) from None


def table(path: Path, title: str, meter: Meter) -> Iterator[Row]:
    """The records of a file that is an array, in constant memory; `title` is what messages call them."""
    for _, start, records in read(path, ("",), meter):
        for position, record in enumerate(records, start):
            yield Row(path, title, position, record)


class _Text:
    """The text of a file, of which only the next piece is in memory.

    json's own decoder takes one value after the other off it, faster than streaming parsers do. What they know more is
    only whether a value that seems broken goes on in the next piece.
    """

    def __init__(self, path: Path, file: BinaryIO, meter: Meter) -> None:
        self.path, self.file, self.meter = path, file, meter
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the first character in memory
        # Of the records so far: their section, how many were handed out, the last of these, and those that follow it.
        self.section, self.before, self.last = "", 0, None
        self.found: list[Any] = []

    def records(self, sections: tuple[str, ...], stop: bool) -> Iterator[tuple[str, int, list[Any]]]:
        """See `read`."""
        if self.mark() == "[":
            yield from self.array("", "" in sections)
        elif not (yield from self.object(sections, stop)):
            return
        if self.mark():
            raise self.broken("something follows its end", self.at)

    def object(self, sections: tuple[str, ...], stop: bool) -> Generator[tuple[str, int, list[Any]], None, bool]:
        """Goes through the keys of the file; whether it came to the end."""
        left = set(sections)
        self.take("{")
        ended = self.mark() == "}"
        self.at += ended
        while not ended:
            if self.mark() != '"':
                raise self.broken("expecting a key in double quotes", self.at)
            key = self.value()
            self.take(":")
            if self.mark() == "[":
                yield from self.array(key, key in sections)
            else:
                self.value()
            left.discard(key)
            if stop and not left:
                return False
            ended = self.take(",}") == "}"
        return True

    def array(self, section: str, wanted: bool) -> Iterator[tuple[str, int, list[Any]]]:
        """Goes through the records of one array."""
        self.take("[")
        self.section, self.before, self.found = section, 0, []
        if self.mark() == "]":
            self.at += 1
            return
        ended = False
        while not ended:
            self.run()
            self.found.append(self.value())
            ended = self.take(",]") == "]"
            if wanted:
                yield section, self.before, self.found
            self.before, self.last, self.found = self.before + len(self.found), self.found[-1], []

    def run(self) -> None:
        """Decodes records that a comma follows, up to one that is not whole in memory: most of them, quickly."""
        self.mark()
        text, at, found = self.text, self.at, self.found
        try:
            while len(found) < TOGETHER - 1:
                value, end = _decode(text, at)
                comma = _COMMA.match(text, end)
                if comma is None:
                    break
                found.append(value)
                at = comma.end()
        except (ValueError, RecursionError):
            pass  # `value` tries again, with more text
        self.at = at

    def value(self) -> Any:
        """Decodes the next value."""
        self.mark()
        while True:
            try:
                value, end = _decode(self.text, self.at)
            except RecursionError:
                raise self.broken("nested too deeply", self.at) from None
            except json.JSONDecodeError as error:
                # A word, a number or an escape that is cut is short; a string may be cut anywhere.
                cut = len(self.text) - error.pos < 16 or error.msg.startswith("Unterminated string")
                if cut and not self.ended:
                    self.more()
                    continue
                raise self.broken(error.msg[0].lower() + error.msg[1:].removesuffix(" at"), error.pos) from None
            except ValueError:  # Python's own limit
                raise self.broken("an integer of thousands of digits", self.at) from None
            if len(self.text) - end < 3 and not self.ended:  # a number may go on: 1, 1e, 1e-, 1e-5
                self.more()
                continue
            self.at = end
            return value

    def take(self, marks: str) -> str:
        """Steps over the next character, which must be one of `marks`."""
        mark = self.mark()
        if not mark or mark not in marks:
            raise self.broken(f"expecting {' or '.join(map(repr, marks))}", self.at)
        self.at += 1
        return mark

    def mark(self) -> str:
        """The next character that is not a space; "" at the end of the file."""
        while True:
            mark = self.text[self.at : self.at + 1]
            if mark and mark not in " \t\n\r":
                return mark
            self.at = _SPACES.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at == len(self.text):
                if self.ended:
                    return ""
                self.more()

    def more(self) -> None:
        """Drops the text before `at` and appends a piece."""
        if len(self.text) - self.at > LONGEST:
            raise self.broken(f"a value of more than {LONGEST} characters", self.at)
        # As much as is there, at least: a value of many pieces is then tried only a few times.
        piece = self.file.read(max(PIECE, len(self.text) - self.at))
        try:
            new = self.decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise FastwarpError(f"{self.path} is not JSON: it is not in UTF-8 ({error.reason})") from None
        self.line, self.column = self.position(self.at)
        self.text, self.at = self.text[self.at :] + new, 0
        self.meter.add(len(piece))
        self.ended = not piece

    def position(self, at: int) -> tuple[int, int]:
        """Line and column, from 1, of a place in the text."""
        lines = self.text.count("\n", 0, at)
        if lines == 0:
            return self.line, self.column + at
        return self.line + lines, at - self.text.rindex("\n", 0, at)

    def broken(self, problem: str, at: int) -> FastwarpError:
        """The error for what is at a place in the text."""
        line, column = self.position(at)
        where = f"line {line}, column {column}"
        count = self.before + len(self.found)
        if count:
            where += f", after {name(self.section, count - 1, self.found[-1] if self.found else self.last)}"
        if at >= len(self.text):
            problem = f"it ends too early, {problem}"
        return FastwarpError(f"{self.path} is not JSON: {problem} ({where})")


def name(section: str, position: int, record: Any) -> str:
    """What messages call a record: by its place and, if it has one, its id."""
    key = next((key for key in ("id", "token") if isinstance(record, dict) and key in record), None)
    return f"{section}[{position}]" + (f" ({key} {shorten(record[key]).strip(chr(39))})" if key else "")


class Row(NamedTuple):
    """A record, and where it is: in which file, section and position."""

    path: Path
    section: str
    position: int
    record: Any

    def get(self, key: str, kind: str) -> Any:
        """The value of a key, or FastwarpError that names file, record, key and what was expected.

        Args:
            key: of the value.
            kind: of the value: a key of `KINDS`.
        """
        if not isinstance(self.record, dict):
            raise self.unfit(f"is {shorten(self.record)}, expected an object")
        if key not in self.record:
            raise self.unfit(f"has no key '{key}', expected {kind}")
        if not KINDS[kind](self.record[key]):
            raise self.unfit(f"has {key} {shorten(self.record[key])}, expected {kind}")
        return self.record[key]

    def unfit(self, problem: str) -> FastwarpError:
        """The error for this record."""
        return FastwarpError(f"{self.path}: {name(self.section, self.position, self.record)} {problem}")


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def shorten(value: Any) -> str:
    """A value for a message, cut if it is long or deep."""
    text = _repr.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be reckoned with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST


def is_id(value: Any) -> bool:
    """Whether a value can be an id. 3.0 is the same as 3: tables with gaps are written so."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, str) or (whole and not isinstance(value, bool))


def _numbers(count: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(is_number, value))


KINDS: dict[str, Callable[[Any], bool]] = {
    "an id": is_id,
    "0, 1, false, true or null": lambda value: value is None or (isinstance(value, (int, float)) and value in (0, 1)),
    "a text": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "an integer from 2 to 1000000": lambda value: isinstance(value, int) and 2 <= value <= 1_000_000,
    "four numbers [x, y, width, height]": _numbers(4),
    "three numbers": _numbers(3),
    "four numbers": _numbers(4),
    "three rows of three numbers": lambda value: (
        isinstance(value, list) and len(value) == 3 and all(map(_numbers(3), value))
    ),
}
