"""What a model's wording of a summary may not do."""

import polars as pl
import pytest

from crslib import schemas
from crslib.config import ProfileParameters
from crslib.dialogue import utterances
from crslib.engines.base import Completion
from crslib.engines.scripted import ScriptedEngine
from crslib.engines.server import Limits, Server
from crslib.errors import CrsError
from crslib.users import profiles, rewording
from tests.support.domains import MOVIES
from tests.support.server import completion, serving
from tests.users.test_profiles import FACTS, item, items_frame

FILMS = [
    item(1, "Dr. Strangelove", 1964),
    item(2, "The Godfather", 1972),
    item(3, "No Country for Old Men", 2007),
    item(4, "The Godfather: Part II", 1974),
    item(5, "Heat", 1995),
    item(6, "Up", 2009),
    item(7, "True Romance", 1993),
    item(8, "Alien", 1979, ["horror", "western"]),
]
TASTE = {
    **FACTS,
    "liked_kinds": ["crime", "sci-fi"],
    "liked_decade": 1970,
    "liked_makers": ["M. Night Shyamalan"],
    "loved_items": ["1", "2"],
    "disliked_items": ["3"],
    "disliked_kinds": ["romance"],
}
GOOD = (
    "Crime and sci-fi movies of the 1970s are yours. You adore Dr. Strangelove (1964) and The Godfather (1972). "
    "You follow M. Night Shyamalan. No Country for Old Men (2007) was not your taste. You avoid romance."
)


def reworded(reply, width: int = 4, **changes) -> tuple[pl.DataFrame, pl.DataFrame, ScriptedEngine]:
    """Two profiles with the same facts, reworded; only the first has held-out items: 4, 5 and 6."""
    items = items_frame(FILMS)
    names = {film["item_id"]: utterances.item_name(film["title"], film["year"]) for film in FILMS}
    row = dict.fromkeys(schemas.TABLES["profiles"]) | TASTE | changes
    row |= {
        "summary": profiles.summarise(row, names, MOVIES),
        "attributes": "hush movie",
        "target_kinds": [],
        "relaxed": [],
    }
    frame = pl.DataFrame(
        [{**row, "profile_id": f"u{n}", "user_id": str(n)} for n in (1, 2)], schema=dict(schemas.TABLES["profiles"])
    )
    holdouts = pl.DataFrame(
        [("u1", number, 5.0, True) for number in "456"], schema=dict(schemas.TABLES["holdouts"]), orient="row"
    )
    engine = ScriptedEngine(reply, width=width)
    return *rewording.reword(frame, holdouts, items, rewording.by_engine(engine, MOVIES, 0)), engine


def test_a_faithful_wording_is_accepted() -> None:
    frame, rejected, engine = reworded(lambda prompt, seed: GOOD, width=1)
    assert frame["summary"].to_list() == [GOOD, GOOD]
    assert rejected.is_empty() and rejected.columns == ["profile_id", "reason", "wording"]
    assert schemas.check(frame, "profiles").height == 2
    assert len(engine.prompts) == 2
    for _, prompt in engine.prompts:
        assert "You loved Dr. Strangelove (1964)" in prompt
        assert "hush" not in prompt and "Part II" not in prompt and "Heat" not in prompt


@pytest.mark.parametrize(
    ("wording", "reason"),
    [
        ("", "empty"),
        ("...", "empty"),
        (GOOD + " You are nice.", "more than five sentences"),
        (GOOD.replace("You follow", "I follow"), "not in the second person"),
        ("Crime and sci-fi are liked.", "not in the second person"),
        (GOOD.replace("The Godfather (1972)", "The Godfather Part II"), "held-out title"),
        (GOOD.replace("The Godfather (1972)", "The Godfather (1972) and godfather parts II"), "held-out title"),
        (GOOD.replace("The Godfather (1972)", "The Godfather (1972) and heat"), "held-out title"),
        (GOOD.replace("follow", "look up to"), "held-out title"),
        (GOOD.replace("The Godfather (1972)", "The Godfather (1972) and Jaws"), "not among the facts: Jaws"),
        (GOOD.replace("(1972)", "(1973)"), "not among the facts: 1973"),
        (GOOD.replace("You follow", "Alien and you follow"), "not among the facts: alien"),
        (GOOD.replace("You follow", "You like true romance and follow"), "not among the facts: true romance"),
        (GOOD.replace("You follow", 'You like "jaws" and follow'), "not among the facts: jaws"),
        (GOOD.replace("Crime and", "Crime, horror and"), "not among the facts: horror"),
        (GOOD.replace("Dr. Strangelove (1964) and ", ""), "left out: Dr. Strangelove"),
        (GOOD.replace(" of the 1970s", ""), "left out: 1970s"),
        (GOOD.replace("was not", "was"), "a taste turned around: No Country"),
        (GOOD.replace("You adore", "You never liked"), "a taste turned around: You never"),
        (GOOD.replace("avoid", "love"), "a taste turned around: You love romance"),
    ],
)
def test_a_faulty_wording_is_rejected_and_the_template_stays(wording, reason) -> None:
    frame, rejected, _ = reworded(lambda prompt, seed: wording)
    assert frame["summary"][0].startswith("You enjoy crime and sci-fi movies")
    assert rejected["profile_id"][0] == "u1" and rejected["reason"][0].startswith(reason)
    assert rejected["wording"][0] == wording


def test_a_held_out_title_is_rejected_in_its_own_profile_only() -> None:
    wording = GOOD.replace("follow", "look up to")
    frame, rejected, _ = reworded(lambda prompt, seed: wording)
    assert rejected["profile_id"].to_list() == ["u1"]
    assert frame["summary"][1] == wording


def test_a_known_title_without_a_year_does_not_hide_a_held_out_one() -> None:
    facts = {**FACTS, "loved_items": ["2"], "summary": "You loved The Godfather."}
    wording = "You adored The Godfather Part II."
    vocabulary = (frozenset(), frozenset())
    withheld = ["The Godfather: Part II (1974)"]
    assert rewording.fault(wording, facts, {"2": "The Godfather"}, withheld, *vocabulary) == "held-out title"
    assert rewording.fault("You adored The Godfather.", facts, {"2": "The Godfather"}, [], *vocabulary) == ""


def test_science_fiction_counts_as_sci_fi() -> None:
    _, rejected, _ = reworded(lambda prompt, seed: GOOD.replace("sci-fi", "science fiction"))
    assert rejected.is_empty()


def test_an_utterance_that_was_cut_short_is_rejected() -> None:
    class Cut(ScriptedEngine):
        def _complete(self, request):
            whole = super()._complete(request)
            return Completion(whole.ids, whole.logprobs, "max_tokens", whole.n_cached)

    items = items_frame(FILMS)
    frame, _, _ = reworded(lambda prompt, seed: "")
    _, rejected = rewording.reword(
        frame, schemas.empty("holdouts"), items, rewording.by_engine(Cut(lambda p, s: GOOD), MOVIES, 0)
    )
    assert rejected["reason"].to_list() == ["cut short", "cut short"]


def test_profiles_without_a_summary_are_not_reworded() -> None:
    frame, rejected, engine = reworded(lambda prompt, seed: GOOD, **FACTS)
    assert frame["summary"].to_list() == ["", ""] and rejected.is_empty() and not engine.prompts


def test_template_style_changes_nothing() -> None:
    built = profiles.ProfileTables(
        *(schemas.empty(name) for name in ("profiles", "holdouts", "ratings", "items")), domain=MOVIES
    )
    worded, rejected = rewording.worded(built, ProfileParameters())
    assert worded is built
    assert rejected.is_empty()


def test_a_model_on_a_server_words_summaries() -> None:
    items = items_frame(FILMS)
    frame, _, _ = reworded(lambda prompt, seed: "")
    with serving((200, completion("Cut", "length")), (200, GOOD)) as server:
        client = Server("m", server.url, limits=Limits(1))
        frame, rejected = rewording.reword(
            frame, schemas.empty("holdouts"), items, rewording.by_server(client, MOVIES, 0)
        )
    assert frame["summary"][1] == GOOD and frame["summary"][0].startswith("You enjoy crime")
    assert rejected.rows() == [("u1", "cut short", "Cut")]
    (_, _, body), (_, _, other) = server.requests
    assert (body["temperature"], body["max_tokens"], body["messages"][1]["role"]) == (0, 128, "user")
    assert "You loved Dr. Strangelove (1964)" in body["messages"][1]["content"]
    assert body["seed"] != other["seed"]


def test_an_absent_server_of_summaries_is_bad_input() -> None:
    built = profiles.ProfileTables(
        *(schemas.empty(name) for name in ("profiles", "holdouts", "ratings", "items")), domain=MOVIES
    )
    with serving((200, GOOD)) as server, pytest.raises(CrsError, match="does not know the model 'x'"):
        rewording.worded(built, ProfileParameters(summary_style="model", summary_model=f"openai:x@{server.url}"))
