"""--labels: whatever holds the names, their order is that of the ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.errors import EngineError
from streamseg.models.weights.class_names import read_names


@pytest.mark.parametrize(
    "text",
    [
        '["a", "b", "c"]',
        '{"2": "c", "0": "a", "1": "b"}',
        '{"c": 2, "a": 0, "b": 1}',
        '{"label2id": {"b": 1, "a": 0, "c": 2}}',
        '{"model_type": "x", "id2label": {"0": "a", "1": "b", "2": "c"}}',
        '[{"id": 2, "name": "c"}, {"id": 0, "name": "a"}, {"id": 1, "name": "b"}]',
        '{"categories": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}',
        '{"0": {"name": "a"}, "1": {"name": "b"}, "2": {"name": "c"}}',
    ],
)
@pytest.mark.parametrize("file", ["x.json", "x.txt"])
def test_json_is_read_as_it_is_usual(tmp_path: Path, text: str, file: str) -> None:
    (tmp_path / file).write_text(text)
    assert [entry.name for entry in read_names(tmp_path / file)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    ['[["a"], ["b"]]', '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', '[{"label": "a"}]', "{}", "[1"],
)
def test_json_without_names_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(EngineError, match=r"holds no names of classes|is not valid JSON"):
        read_names(tmp_path / "x.json")
