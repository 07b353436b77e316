"""Reading JSON in pieces: large files of annotations."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saliency_file_cases import ARGOVERSE_HD, edited, write

from fastwarp.errors import FastwarpError
from fastwarp.saliency import _records
from fastwarp.saliency._records import Meter, read
from fastwarp.saliency.coco import coco_prior

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def sections(path: Path, *names: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for section, start, records in read(path, names, Meter(None, 1)):
        assert start == len(found.setdefault(section, []))
        found[section] += records
    return found


@given(
    data=st.dictionaries(st.text(max_size=5), JSON | st.lists(JSON, max_size=9), max_size=5)
    | st.lists(JSON, max_size=9),
    piece=st.integers(1, 40),
    together=st.integers(1, 5),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_pieces_make_the_whole(tmp_path_factory, data, piece, together, indent, ascii_only):
    path = tmp_path_factory.mktemp("json") / "data.json"
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="surrogatepass")
    expected = {"": data} if isinstance(data, list) else {k: v for k, v in data.items() if isinstance(v, list)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_records, "PIECE", piece)
        patch.setattr(_records, "TOGETHER", together)
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # half of a surrogate pair
            with pytest.raises(FastwarpError, match="is not JSON: it is not in UTF-8"):
                sections(path, *expected)
            return
        assert sections(path, *expected) == {key: value for key, value in expected.items() if value}


def test_only_the_sections_asked_for(tmp_path):
    path = write(tmp_path / "a.json", ARGOVERSE_HD)
    assert sections(path, "sequences", "none") == {"sequences": ARGOVERSE_HD["sequences"]}


def test_every_end_that_comes_too_early_is_an_error(tmp_path, monkeypatch):
    whole = json.dumps(
        {"images": [{"id": 12, "name": "\u00fc\\n"}, -1.5e3, True], "n": {"a": [None]}}, ensure_ascii=True
    )
    path = tmp_path / "cut.json"
    for piece in (1, 5, 1 << 20):
        monkeypatch.setattr(_records, "PIECE", piece)
        for end in range(len(whole)):
            path.write_text(whole[:end])
            with pytest.raises(FastwarpError, match=r"cut.json is not JSON: .*\(line 1, column \d+") as caught:
                sections(path, "images")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("piece", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it ends too early, expecting '{' (line 1, column 1)"),
        ("5", "expecting '{' (line 1, column 1)"),
        ('{"a": 1} {', "something follows its end (line 1, column 10)"),
        ("[1] 2", "something follows its end (line 1, column 5, after [0])"),
        ("{1: 2}", "expecting a key in double quotes (line 1, column 2)"),
        ('{"a" 2}', "expecting ':' (line 1, column 6)"),
        ('{"a": 2 "b": 3}', "expecting ',' or '}' (line 1, column 9)"),
        ('{"a": [{"id": 3},\n\n {"id": x}]}', "expecting value (line 3, column 9, after a[0] (id 3))"),
        ('{"a": [{"id": 3}\n{"id": 4}]}', "expecting ',' or ']' (line 2, column 1, after a[0] (id 3))"),
        (
            '{"a": [{"id": 3},\n{"id": 4,\n   "b": "x\ny"}]}',
            "invalid control character (line 3, column 11, after a[0] (id 3))",
        ),
        ('{"a": [1,]}', "expecting value (line 1, column 10, after a[0])"),
        ('{"a": [' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + '{"b": ' * 100_000, "nested too deeply"),
        ('{"a": [1, ' + "9" * 5000 + "]}", "an integer of thousands of digits (line 1, column 11, after a[0])"),
        ('{"b": ' + "9" * 5000 + "}", "an integer of thousands of digits (line 1, column 7)"),
    ],
)
def test_broken_json_says_where(tmp_path, monkeypatch, text, message, piece):
    monkeypatch.setattr(_records, "PIECE", piece if len(text) < 1000 else 1 << 20)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FastwarpError) as caught:
        sections(path, "a")
    assert str(caught.value).startswith(f"{path} is not JSON: {message}")


def test_values_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(_records, "LONGEST", 1000)
    monkeypatch.setattr(_records, "PIECE", 300)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": ["x" * 100, "x" * 4000]}))
    with pytest.raises(FastwarpError, match=r"a value of more than 1000 characters \(line 1, column 112, after a\[0\]"):
        sections(path, "a")
    path.write_text(json.dumps({"a": ["x" * 100] * 4000}))
    assert len(sections(path, "a")["a"]) == 4000


def test_deep_values_are_named(tmp_path):
    deep: list = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(FastwarpError, match=r"annotations\[1\] \(id 1\) has bbox \[\[\[.*, expected four numbers"):
        coco_prior(write(tmp_path / "train.json", edited(bbox=deep)))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FastwarpError, match=r"^cannot read .*none.json: No such file or directory$"):
        coco_prior(tmp_path / "none.json")
    with pytest.raises(FastwarpError, match=r"^cannot read .*: Is a directory$"):
        coco_prior(tmp_path)
    (tmp_path / "latin.json").write_bytes('{"images": [{"id": "\xfc"}]}'.encode("latin-1"))
    with pytest.raises(FastwarpError, match="is not JSON: it is not in UTF-8"):
        coco_prior(tmp_path / "latin.json")


def test_little_of_a_file_is_in_memory(tmp_path):
    images = [{"id": i, "height": 720, "width": 1280} for i in range(100)]
    boxes = [
        {"id": i, "image_id": i % 100, "bbox": [1.5, 2, 3, 4], "segmentation": [[0.5] * 200]} for i in range(12_000)
    ]
    path = write(tmp_path / "large.json", {"images": images, "annotations": boxes})
    del boxes
    assert path.stat().st_size > 12_000_000
    coco_prior(write(tmp_path / "small.json", ARGOVERSE_HD))  # imports and kernels
    tracemalloc.start()
    coco_prior(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000  # a piece and its text, a few hundred records, and 56 bytes for each box, twice
