"""A list inside a JSON object, element by element, in chunks of any size."""

import json

import pytest

from backend import json_stream
from backend.errors import InputError
from backend.json_stream import stream_list

ELEMENTS = [{"a": 'ü \\ " ] } 日本', "b": [1, [2]]}, [], 12345, "x]", None, -0.5]


@pytest.mark.parametrize("chunk", [1, 2, 7, 10_000])
@pytest.mark.parametrize("first", [True, False])
def test_elements_are_those_of_the_whole_document(tmp_path, monkeypatch, chunk, first):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    other = {"version": "v2.0", "more": {"data": [9]}}
    document = {"data": ELEMENTS, **other} if first else {**other, "data": ELEMENTS}
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps(document, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(stream_list(tmp_path / "a.json", "data")) == ELEMENTS


BAD = {
    "no list": ('{"data": 3}', "no list"),
    "no object": ("[1]", "was due"),
    "cut": ('{"data": [{"a": 1}', "was due"),
    "cut inside": ('{"data": [{"a": 1', "not valid JSON"),
    "duplicate key": ('{"data": [{"a": 1, "a": 2}]}', "not valid JSON"),
    "NaN": ('{"data": [NaN]}', "not valid JSON"),
    "deep": ('{"data": [' + "[" * 5000 + "]" * 5000 + "]}", "not valid JSON|nested"),
    "empty": ("", "was due"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_are_one_message(tmp_path, name):
    text, words = BAD[name]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as refused:
        list(stream_list(tmp_path / "a.json", "data"))
    import re

    assert re.search(words, str(refused.value))


def test_only_a_part_of_the_file_is_in_memory(tmp_path):
    import tracemalloc

    article = json.dumps({"title": "x" * 1000})
    (tmp_path / "a.json").write_text('{"data": [' + ",".join([article] * 20_000) + "]}")  # 20 MB
    tracemalloc.start()
    assert sum(1 for _ in stream_list(tmp_path / "a.json", "data")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
