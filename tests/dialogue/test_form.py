"""How utterances are written."""

from crslib.dialogue.form import features


def test_words_of_content_and_titles_change_nothing() -> None:
    assert features("I saw [[Heat (1995)]] with cats") == features("I saw [[Up! (2009)]] with dogs")
    assert len(features("")) == len(features("Hello!"))


def test_form_changes_what_is_read() -> None:
    plain = features("I saw it. You did too")
    for other in ("i saw it. You did too", "I saw it.. You did too", "I saw it. You did", "I saw it! You did too"):
        assert features(other) != plain, other
    assert plain[0] == 6  # words
