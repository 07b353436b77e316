"""What the source of the library and of the kernels for CPUs must look like, so that a stranger can read it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LINES, PARAMETERS = 80, 15
ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "kernels" / "cpu").glob("*.py"), *(ROOT / "fastwarp").rglob("*.py")])


COMPILED = {"inline", "jit", "parallel", "exact"}
MAKE_ARRAYS = {"np.empty", "np.zeros", "np.ones", "np.full", "np.arange"}


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines without those of the docstring, and number of parameters of each function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                lines -= (text.end_lineno or text.lineno) - text.lineno + 1
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            others = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
            yield node.name, lines, len(named) + len(others)


def test_the_sources_are_found():
    assert len(SOURCES) > 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_functions_are_short_and_take_few_arguments(path):
    large = [f for f in functions(path) if f[1] > LINES or f[2] > PARAMETERS]
    assert not large, "\n".join(
        f"{path.name}: {name} has {lines} lines and {count} parameters" for name, lines, count in large
    )


def slow_to_compile(path: Path) -> Iterator[str]:
    """What costs numba many times as much as the same by pointers: slices, several indices, arrays that NumPy makes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        if not COMPILED & {d.id for d in node.decorator_list if isinstance(d, ast.Name)}:
            continue
        for part in ast.walk(node):
            indices = isinstance(part, ast.Subscript) and isinstance(part.slice, (ast.Slice, ast.Tuple))
            if indices or ast.unparse(part) in MAKE_ARRAYS:
                yield f"{path.name}: {node.name} has {ast.unparse(part)}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "cpu"], ids=lambda path: path.stem)
def test_kernels_have_only_what_compiles_fast(path):
    assert not list(slow_to_compile(path))


def test_names_in_kernels_have_one_meaning():
    """Of compiled functions and of tuples; launchers of two families have the same names on purpose."""
    places: dict[str, list[str]] = {}
    for path in (path for path in SOURCES if path.parent.name == "cpu"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.decorator_list):
                places.setdefault(node.name, []).append(path.name)
    assert not {name: files for name, files in places.items() if len(files) > 1}
