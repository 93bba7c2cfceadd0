"""Utterances: mentions, how they are replaced, and cleaning."""

from hypothesis import given
from hypothesis import strategies as st

from crslib.dialogue import utterances
from tests.support.texts import TEXT

TWO = "I loved [[Heat (1995)]] and [[Up (2009)]]!"


def test_mentions_are_replaced_by_a_text_or_by_a_function_of_the_name() -> None:
    assert utterances.replace_mentions(TWO, "it") == "I loved it and it!"
    assert utterances.replace_mentions(TWO, str.upper) == "I loved HEAT (1995) and UP (2009)!"
    assert utterances.replace_mentions(r"[[Heat (1995)]]", r"\1") == r"\1"


def test_spans_are_replaced_in_any_order() -> None:
    assert utterances.replace_spans("one two three", [(8, 13, "3"), (0, 3, "1")]) == "1 two 3"
    assert utterances.replace_spans("one", []) == "one"


def test_between_returns_one_part_more_than_there_are_mentions() -> None:
    assert utterances.between(TWO) == ["I loved ", " and ", "!"]
    assert utterances.between("[[Up (2009)]]") == ["", ""]
    assert utterances.between("one two", [(3, 4)]) == ["one", "two"]


def test_pieces_have_no_brackets_and_no_empty_parts() -> None:
    assert utterances.pieces("[[Up (2009)]] is it") == [["Up (2009)", True], [" is it", False]]


def test_items_without_an_id_are_compared_by_title() -> None:
    assert utterances.item_key({"item_id": "6", "title": "Up"}) == "6"
    assert utterances.item_key({"item_id": None, "title": "Upp"}) == utterances.item_key(
        {"item_id": None, "title": "upp"}
    )


@given(TEXT)
def test_clean_is_one_line_stable_and_balanced(text: str) -> None:
    cleaned = utterances.clean(text)
    assert utterances.clean(cleaned) == cleaned
    assert "\n" not in cleaned
    outside = utterances.replace_mentions(cleaned, "")
    assert "[[" not in outside
    assert "]]" not in outside
    for name, start, end in utterances.mentions(cleaned):
        assert cleaned[start:end] == f"[[{name}]]"


@given(TEXT, st.one_of(st.none(), st.integers(1900, 2030)))
def test_any_title_can_be_mentioned_and_read_back(title: str, year: int | None) -> None:
    utterance = f"Try {utterances.mention(utterances.item_name(title, year))} now"
    mentions = utterances.mentions(utterances.clean(utterance))
    assert len(mentions) == (1 if utterances.item_name(title, year).strip() else 0)


def test_clean_removes_brackets_that_are_not_closed() -> None:
    assert utterances.clean("I like [[Heat (1995)]] and [[The Mat") == "I like [[Heat (1995)]] and The Mat"
    assert utterances.clean(" a \n b ]] ") == "a b"
    assert utterances.plain("See [[Heat (1995)]]!") == "See Heat (1995)!"
