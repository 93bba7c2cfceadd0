"""Domain files: what the shipped ones say, and one sentence per fault of another."""

from pathlib import Path

import pytest
import yaml

from crslib.dialogue import domain, lexicon, reactions, views
from crslib.dialogue.credits import Credits
from crslib.dialogue.questions import questions
from crslib.dialogue.views import ItemFacts, Note, UserKnowledge
from crslib.errors import CrsError
from crslib.store import Run
from crslib.users import agenda
from tests.support.domains import BOOKS, MOVIES


def changed(tmp_path: Path, *path: str, to: object) -> Path:
    """The domain of books with one field changed (None: left out)."""
    content = yaml.safe_load((domain.FOLDER / "books.yaml").read_text(encoding="utf-8"))
    part = content
    for name in path[:-1]:
        part = part[name]
    if to is None:
        del part[path[-1]]
    else:
        part[path[-1]] = to
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def test_films_are_spoken_of_as_before_there_were_domains() -> None:
    assert MOVIES.system.user == "You are chatting with a movie recommender."
    assert MOVIES.system.recommender == "You are a movie recommender."
    assert (MOVIES.a_noun, MOVIES.mask, MOVIES.period(1994)) == ("a movie", "FILM", 1990)
    assert len(MOVIES.kinds) == 22


def test_books_have_words_of_their_own() -> None:
    assert UserKnowledge(BOOKS, "", "fantasy book").system() == (
        "You are chatting with a book recommender.\nLooking for: fantasy book"
    )
    assert views.note_line([Note("Emma (1815)", True, False), Note("Kim (1901)", False, True)], BOOKS) == (
        "(Emma (1815): read, disliked; Kim (1901): not read, interested)"
    )
    emma = ItemFacts("Emma (1815)", ("classics",), ("Jane Austen",), (), (("series", "Highbury"), ("isbn", "1")))
    assert views.facts_line([emma], BOOKS) == "(Emma (1815): classics, by Jane Austen, of the series Highbury)"
    assert lexicon.kinds(lexicon.tokens("a spooky science fiction novel"), BOOKS) == ["horror", "science-fiction"]
    assert lexicon.decades("from the 1850s", BOOKS) == [1850]
    assert lexicon.decades("from the 1850s", MOVIES) == []
    (clause,) = reactions.clauses("I haven't read it")
    assert (reactions.says_seen(clause, BOOKS), reactions.says_seen(clause, MOVIES)) == (False, None)
    (clause,) = reactions.clauses("I've read this book")
    assert reactions.says_seen(clause, BOOKS) is True
    assert questions({"text": "Who wrote it? When was it published?", "items": []}, BOOKS) == ["who", "when"]


def test_a_wrong_author_is_wrong_where_a_domain_has_no_other_people() -> None:
    facts = {"1": {"makers": ["Jane Austen"], "people": [], "year": 1815}}
    assert Credits(facts, BOOKS).has("1", "person", "Max Weber") is False
    assert Credits(facts, MOVIES).has("1", "person", "Max Weber") is None


@pytest.mark.parametrize("name", domain.shipped())
def test_a_shipped_domain_is_named_as_its_file_and_has_phrases_for_an_agenda(name: str) -> None:
    read = domain.read(name)
    assert read.name == name
    assert agenda.read_phrases(read)["what_none"] == [read.plural] or (read.plural,)


@pytest.mark.parametrize(
    ("path", "to", "sentence"),
    [
        (("noun",), None, "noun is not valid: field required"),
        (("noun",), "a\nb", "noun is not valid: 'a\\nb' is not one line of plain text"),
        (("noun",), "<|im_start|>", "is not one line of plain text"),
        (("nuon",), "book", "nuon is not valid: extra inputs are not permitted"),
        (("words",), [], "words is not valid: tuple should have at least 1 item"),
        (("words",), ["Book"], "words.0 is not valid: 'Book' is not a word, or several between single blanks"),
        (("claims", "made"), ["wr(ote"], "claims.made.0 is not valid: 'wr(ote' is not a word"),
        (("kinds", "horror"), "scary a.*", "kinds.horror.1 is not valid: 'a.*' is not one word"),
        (("summary", "loved"), "You loved it.", "'You loved it.' needs {values} once and nothing else in braces"),
        (("summary", "loved"), "{values} {values}", "needs {values} once"),
        (("summary", "n_loved"), [0, 0, 0, 0], "n_loved is 0 throughout"),
        (("summary", "n_loved"), [1, 2], "summary.n_loved.2"),
        (("summary", "kinds"), "{kinds} {decade} {x}", "needs {kinds} and {decade} once"),
        (("system", "user"), "Hi {values}", "'Hi {values}' needs nothing in braces"),
        (("wish", "maker"), "by {value.__class__}", "needs {value} once"),
        (("notes", "unmet"), "read", "two notes have the same words"),
        (("notes", "met"), "read: yes", "'read: yes' is not a word"),
        (("wish", "shapes"), [{"kinds": 1, "further": "person", "share": 1}], "'person', for which wish has no phrase"),
        (("wish", "shapes"), [{"kinds": 0, "share": 1}], "a shape asks for nothing"),
        (("wish", "attributes"), {"kind": "{value}", "tag": "about {value}"}, "'kind' is no further attribute"),
        (("time", "said"), "month", "time.said is not valid: input should be 'decade', 'year' or 'none'"),
        (("name",), "My Books", "name is not valid: string should match pattern"),
        (("label",), "x" * 30, "label is not valid: 'xxx"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_file_and_place(
    tmp_path: Path, path: tuple[str, ...], to: object, sentence: str
) -> None:
    file = changed(tmp_path, *path, to=to)
    with pytest.raises(CrsError) as raised:
        domain.read(str(file))
    assert str(raised.value).startswith(f"in {file} ")
    assert sentence in str(raised.value)


def test_a_wording_that_says_something_else_than_its_act_is_refused(tmp_path: Path) -> None:
    file = changed(tmp_path, "agenda", "unseen", to=["i've read {it}"])
    with pytest.raises(CrsError, match=r"the domain books: .* is read as read, not as not read; word it otherwise"):
        agenda.read_phrases(domain.read(str(file)))


def test_an_unknown_domain_is_named_with_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrsError, match=r"there is no domain 'bokks'; shipped are books, movies, `crs domain new"):
        domain.read("bokks")
    (tmp_path / "books").mkdir()
    assert domain.read(str(tmp_path / "books")) == BOOKS  # a folder of that name is not meant


def test_values_are_no_placeholders() -> None:
    assert domain.fill("{kinds} books{decade}", kinds="{decade}", decade="{kinds}") == "{decade} books{kinds}"


def test_words_are_matched_as_they_are() -> None:
    pattern = domain.alternatives(["been to", "a+b"])
    assert pattern == r"been\x20to|a\+b"


def test_a_domain_comes_back_from_the_folder_of_a_run(tmp_path: Path) -> None:
    assert domain.of_run(Run(tmp_path)) == MOVIES  # a run from before there were domains
    BOOKS.write(tmp_path)
    assert domain.of_run(Run(tmp_path)) == BOOKS != MOVIES
    assert hash(domain.of_run(Run(tmp_path))) == hash(BOOKS)


def test_a_new_file_is_whole_and_is_not_written_over_another(tmp_path: Path) -> None:
    file = tmp_path / "games.yaml"
    domain.new("games", file)
    games = domain.read(str(file))
    agenda.read_phrases(games)
    assert games.name == "games"
    text = file.read_text(encoding="utf-8")
    fields = {*domain.Domain.model_fields, *domain.Claims.model_fields, *domain.Meeting.model_fields}
    assert all(f"{field}:" in text for field in fields)
    assert text.count("#") > 60
    with pytest.raises(CrsError, match="exists; choose another place"):
        domain.new("games", file)
    with pytest.raises(CrsError, match="'My Games' is no name of a domain"):
        domain.new("My Games", tmp_path / "x.yaml")


def test_time_is_said_as_the_domain_has_it(tmp_path: Path) -> None:
    by_year = domain.read(str(changed(tmp_path, "time", "said", to="year")))
    assert (by_year.period(1994), lexicon.periods("from 1994 or the 80s", by_year)) == (1994, [1994])
    never = domain.read(str(changed(tmp_path, "time", "said", to="none")))
    assert (never.period(1994), lexicon.periods("from 1994", never)) == (None, [])
    assert (BOOKS.period(-750), BOOKS.period(None), lexicon.periods("from 1994", BOOKS)) == (-750, None, [1990])
