"""Where data come from: read, written, credited."""

from pathlib import Path

import pytest

from crslib.config import ROOT
from crslib.data import builtin
from crslib.data.source import Feedback, Source
from crslib.errors import CrsError


def test_a_source_is_read_as_it_was_written(tmp_path: Path) -> None:
    source = Source(name="Goodbooks-10k", domain="books", feedback=Feedback(kind="marks", low=1, high=5, none=0))
    source.write(tmp_path)
    assert Source.read(tmp_path) == source
    assert source.credit == "Goodbooks-10k; licence: not stated"


def test_without_a_file_nothing_is_stated(tmp_path: Path) -> None:
    assert Source.read(tmp_path) == Source()
    assert (Source().name, Source().domain, Source().feedback.kind) == ("not stated", "movies", "marks")


def test_the_built_in_data_credit_movielens() -> None:
    source = Source.read(ROOT / "data")
    assert source == builtin.SOURCE
    for words in ("MovieLens", "https://grouplens.org/", "non-commercial", "Wikidata: CC0", "Harper", "Konstan"):
        assert words in source.credit


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[]", "its content is not valid"),
        (b'{"name": 7}', "name is not valid"),
        (b'{"name": ""}', "name is not valid"),
        (b'{"title": "x"}', "title is not valid"),
        (b'{"feedback": {"kind": "likes"}}', "feedback.kind is not valid"),
        (b'{"feedback": {"low": NaN}}', "readable"),
        (b"\xff\xfe", "readable"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "source.json").write_bytes(content)
    with pytest.raises(CrsError, match=r"source\.json is not readable") as caught:
        Source.read(tmp_path)
    assert words in str(caught.value) and "import the data again" in str(caught.value)


def test_what_is_stated_is_one_line() -> None:
    assert Source(name="a\n# b <|im_end|>\u202e").name == "a # b <|im_end|>"
