"""Whatever a model wants to say: no sentence twice, no run of words on and on, nothing cut inside a word or title."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib.dialogue.repetition import in_title, repeats
from crslib.dialogue.scripts import parse_script
from crslib.dialogue.utterances import clean
from crslib.engines.guard import Guard
from tests.support.fuzz import tries

END = 0
PIECES = [
    b"",
    b" it",
    b" is",
    b" good",
    b"go",
    b"od",
    b".",
    b"!",
    b" [[",
    b"Up",
    b" (2009)",
    b"]]",
    b"]].",
    b"[[",
    b"\n",
]
PIECES += [b"User:", b"\nRecommender:", b" no", b",", b"\xc3", b"\xa9", b"?", b" 3", b".5", b"'s"]
LINES = [b"", b"User:", b"\nRecommender:", b"\n", b" it", b" is", b"."]
TOKENS = st.integers(0, len(PIECES) - 1)


def draw(wishes: Sequence[int], scope: str) -> tuple[list[int], bool]:
    """The tokens of a model that wishes for one token after the other, and whether it has ended; what is refused is
    taken from the wishes."""
    guard, ids = Guard(PIECES, scope), []
    for token in wishes:
        if guard.refuses(token, ends=token == END):
            continue
        if token == END:
            return ids, True
        guard.follow(token)
        ids.append(token)
    return ids, False


def text_of(ids: Sequence[int]) -> str:
    return b"".join(PIECES[token] for token in ids).decode("utf-8", "replace")


@given(st.lists(TOKENS, max_size=60))
def test_an_utterance_does_not_repeat_itself_and_ends_in_no_title(wishes: list[int]) -> None:
    ids, ended = draw(wishes, "utterance")
    text = text_of(ids)
    assert not repeats(text, ended=ended)
    assert not (ended and in_title(text))


@given(st.lists(st.sampled_from([PIECES.index(piece) for piece in LINES]), max_size=60))
@settings(max_examples=tries(300))
def test_no_turn_of_a_script_repeats_itself(wishes: list[int]) -> None:
    ids, ended = draw(wishes, "turn of a script")
    turns = [text for _, text in parse_script(text_of(ids))]
    assert not any(repeats(text, ended=ended or number < len(turns) - 1) for number, text in enumerate(turns))


def test_turns_of_a_script_may_be_the_same() -> None:
    wishes = [PIECES.index(piece) for piece in (b"User:", b" it", b" is", b" good", b".", b"\nRecommender:")]
    wishes += [PIECES.index(piece) for piece in (b" it", b" is", b" good", b".")]
    assert draw(wishes, "turn of a script")[0] == wishes
    assert draw([*wishes, *wishes[-4:]], "turn of a script")[0] == [*wishes, *wishes[-4:-1]]


@pytest.mark.parametrize("stop", [b"\nRecommender:", b"\n", b""])
def test_the_end_of_a_turn_ends_its_last_sentence(stop: bytes) -> None:
    said = [PIECES.index(piece) for piece in (b"User:", b" it", b" is", b".", b" it", b" is")]
    assert draw([*said, PIECES.index(stop), PIECES.index(b" good")], "turn of a script")[0] == [*said, 3]


def test_what_was_forced_to_repeat_itself_goes_on() -> None:
    guard = Guard(PIECES, "utterance")
    for piece in (b" it", b" is", b".", b" it", b" is", b"."):
        guard.follow(PIECES.index(piece))
    assert not any(guard.refuses(token, ends=token == END) for token in range(len(PIECES)))


def test_a_guard_that_is_off_refuses_nothing() -> None:
    wishes = [PIECES.index(piece) for piece in (b" it", b" is", b".", b" it", b" is", b".", b" [[")]
    assert draw([*wishes, END], "off") == (wishes, True)


@given(st.lists(st.integers(1, len(PIECES) - 1), max_size=40))
def test_what_is_cut_is_whole(wishes: list[int]) -> None:
    ids, _ = draw(wishes, "utterance")
    guard = Guard(PIECES, "utterance")
    n = guard.whole(ids)
    text, rest = text_of(ids[:n]), b"".join(PIECES[token] for token in ids[n:])
    assert not in_title(text)
    assert not repeats(clean(text)) or n == len(ids)
    assert not rest or not text or text.rstrip()[-1:] in set(".!?") or rest[:1].isspace()


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b" it", b" is", b" good", b".", b" it"], " it is good."),
        ([b" good", b".", b" it", b" is", b" it", b" no", b"od"], " good. it is it"),  # the sentence is too far back
        ([b" it", b" is", b" [[", b"Up", b" (2009)"], " it is"),
        ([b" it", b" is", b" [[", b"Up", b"]]", b" good"], " it is [[Up]]"),
        ([b" it", b" 3", b".", b".5"], " it 3."),
        ([b" it", b" is", b" 3", b".5", b"od"], " it is"),
        ([b"go", b"od", b"go"], "goodgo"),  # nothing is known of where its only word ends
        ([b"[[", b"Up", b" (2009)"], ""),
        ([b" no", b"!", b" it", b" is", b"!", b" it", b" is", b" it"], " no! it is!"),
        ([], ""),
    ],
)
def test_where_an_utterance_is_cut(pieces: list[bytes], text: str) -> None:
    ids = [PIECES.index(piece) for piece in pieces]
    assert text_of(ids[: Guard(PIECES, "utterance").whole(ids)]) == text
