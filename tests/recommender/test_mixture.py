"""The cached table of the tokens of titles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from crslib.recommender.mixture import token_table
from tests.support.domains import MOVIES


class Reader:
    """Tokens are characters; each has the log-probability -1."""

    chat_template = ("", "", "", False)
    identity: dict[str, str] = {"model_sha256": "ab"}  # noqa: RUF012

    def __init__(self) -> None:
        self.n_scored = 0

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return list(map(ord, text))

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        self.n_scored += 1
        return [np.full(len(one), -1.0) for one in continuations]


def test_a_damaged_table_of_titles_is_said_and_made_anew(tmp_path: Path) -> None:
    reader, names = Reader(), ["Up (2009)", "Heat"]

    def table() -> np.ndarray:
        return token_table(reader, names, [reader.encode(name) for name in names], MOVIES, tmp_path)

    expected = table()
    assert expected[0].tolist() == [-1.0] * 4 + [0.0] * 6  # "Up (" and what follows the last token
    assert expected[1].tolist() == [-1.0] * 5 + [0.0] * 5  # "Heat" and the end of its mention
    assert np.array_equal(table(), expected)
    assert reader.n_scored == 1
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    assert np.array_equal(table(), expected), "what follows the numbers is not read"
    not_numbers = np.full(expected.shape, np.nan, np.float32)
    for content in (b"", whole[:60], whole[:-4], whole.replace(b"'<f4'", b"'<f8'"), not_numbers):
        np.save(path, content) if isinstance(content, np.ndarray) else path.write_bytes(content)
        n_before = reader.n_scored
        with pytest.warns(UserWarning, match=f"{path} is damaged: it is made anew"):
            assert np.array_equal(table(), expected)
        assert path.read_bytes() == whole
        assert reader.n_scored == n_before + 1
