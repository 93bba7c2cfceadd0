"""JSON that programs wrote is read back strictly, and what is wrong with a file is one sentence."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.errors import CrsError
from crslib.schemas import STRICT


@with_config(STRICT)
class Record(TypedDict):
    n: int
    share: float
    names: list[str]


KIND = TypeAdapter(Record)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON: EOF while parsing a value at line 1 column 0"),
        (b"\0\0", "it is not JSON: expected value at line 1 column 1"),
        (b"{ torn", "it is not JSON: key must be a string at line 1 column 3"),
        (b"[" * 100_000, "it is not JSON: recursion limit exceeded at line 1 column 202"),
        (b'{"n": 1}{"n": 1}', "it is not JSON: trailing characters at line 1 column 9"),
        (b'{"n": NaN}', "it is not JSON: expected value at line 1 column 7"),
        (b'{"n": 1e999}', "it is not JSON: a number is infinite"),
        (rb'{"n": "\ud83d"}', "it is not JSON: unexpected end of hex escape at line 1 column 14"),
        (b"null", "its content is not valid: input should be an object"),
        (b'{"n": 1, "share": 0.5}', "names is not valid: field required"),
        (b'{"n": "1", "share": 0.5, "names": []}', "n is not valid: input should be a valid integer"),
        (b'{"n": 1, "share": true, "names": []}', "share is not valid: input should be a valid number"),
        (b'{"n": 1, "share": 0.5, "names": ["a", 2]}', "names.1 is not valid: input should be a valid string"),
    ],
)
def test_a_fault_is_one_sentence_with_file_reason_and_remedy(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CrsError) as caught:
        json_files.read_as(tmp_path / "x.json", KIND, "make it anew")
    assert str(caught.value) == f"{tmp_path / 'x.json'} is not readable ({reason}); make it anew"


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(CrsError, match=f"{path} is not readable \\({reason}\\); make it anew"):
            json_files.read_as(path, KIND, "make it anew")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"n": 1, "share": 2, "names": ["\u2028"]}', encoding="utf-8")
    assert json_files.read_as(tmp_path / "x.json", KIND, "") == {"n": 1, "share": 2.0, "names": ["\u2028"]}
