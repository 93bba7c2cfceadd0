"""Counterfactual twins of a few people, and what their dialogues make of it, counted by hand."""

from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.config import SimulationParameters
from crslib.engines.scripted import ScriptedEngine
from crslib.experiments.benchmarks import twins
from crslib.experiments.benchmarks.twins import FACTUAL, ITEM, KIND, PLACEBO
from crslib.simulation import Population
from tests.conftest import make_profiles
from tests.simulation.test_loop import NO_RATINGS
from tests.support.agents import agents
from tests.support.domains import MOVIES
from tests.support.metrics_frames import talk


def people(**columns: list[object]) -> pl.DataFrame:
    """Three people, a, b and c, with what the test gives them."""
    given = [pl.Series(name, values, schemas.TABLES["profiles"][name]) for name, values in columns.items()]
    return make_profiles(["a", "b", "c"]).with_columns(given)


def changes(old: str, new: str, old_genres: list[str], new_genres: list[str]) -> pl.DataFrame:
    rows = [(profile, old, new, old_genres, new_genres) for profile in "ab"]
    return pl.DataFrame(rows, schema=twins.CHANGES, orient="row")


def values(frame: pl.DataFrame, dialogue_id: str) -> dict[str, float | None]:
    return dict(frame.filter(dialogue_id=dialogue_id).select("measure", "value").iter_rows())


def test_a_twin_looks_for_what_others_look_for(items: pl.DataFrame) -> None:
    who = people(
        target_kinds=[["comedy"], ["action"], []],
        target_decade=[1990, None, 1990],
        liked_kinds=[["western"], ["comedy"], []],
    )
    found = twins.other_kind(who, items, MOVIES, 2, 0)
    # b enjoys comedies anyway, c looks for no genre; two films of the nineties are action.
    assert found.changes.rows() == [("a", "comedy", "action", ["comedy"], ["action"])]
    (twin,) = found.profiles.to_dicts()
    expected = {"target_kinds": ["action"], "attributes": "action movie from the 1990s", "k_anonymity": 2}
    assert twin == {**who.row(0, named=True), **expected}
    schemas.check(found.profiles, "profiles")
    assert twins.other_kind(who, items, MOVIES, 3, 0).profiles.is_empty()


def test_a_twin_loved_another_film_that_the_person_liked(items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    who = people(loved_items=[["1", "4"], ["1"], []])
    rated = [("a", "1", 5.0), ("a", "2", 5.0), ("a", "3", 5.0), ("a", "4", 5.0), ("a", "6", 5.0), ("a", "5", 1.0)]
    rated += [("b", "1", 5.0), ("b", "2", 5.0), ("b", "6", 1.0), ("c", "6", 5.0), ("c", "5", 1.0)]
    training = pl.DataFrame(
        [(*row, None) for row in rated], schema=dict(schemas.TABLES["ratings"]), orient="row"
    )  # fmt: skip
    monkeypatch.setattr(twins, "N_KNOWN", 1)
    found = twins.other_item(who, training, items, MOVIES, 0)
    # Of what a liked, The Matrix has a genre of Heat's and King Kong is in the summary; Up is better known than
    # Notting Hill. b did not like Up.
    assert found.changes.rows() == [("a", "1", "6", ["action", "crime"], ["animation", "family"])]
    assert found.profiles["summary"].to_list() == ["You loved Up (2009) and King Kong (1933)."]
    assert found.profiles["loved_items"].to_list() == [["6", "4"]]


TALK = {
    "a.0": ("U: I want a comedy like [[Heat (1995)]]", "R: [[Notting Hill (1999)]] or [[The Matrix (1999)]]", "U: ok"),
    "b.0": ("U: hi", "R: hi"),
    "c.0": ("U: comedy", "R: [[Up (2009)]]"),
}


def test_what_was_changed_is_counted(items: pl.DataFrame) -> None:
    found = twins.changed(KIND, changes("comedy", "action", ["comedy"], ["action"]), talk(TALK), items, MOVIES)
    assert values(found, "a.0") == {"says_new": 0, "says_old": 1, "recommends_new": 0.5, "recommends_old": 0.5}
    assert values(found, "b.0") == {"says_new": 0, "says_old": 0, "recommends_new": None, "recommends_old": None}
    assert values(found, "c.0") == {}
    film = changes("1", "6", ["action", "crime"], ["animation"])
    found = twins.changed(ITEM, film, talk(TALK), items, MOVIES)
    assert values(found, "a.0") == {"says_new": 0, "says_old": 1, "recommends_new": 0, "recommends_old": 0.5}


def test_what_is_alike_is_counted(items: pl.DataFrame) -> None:
    other = {
        "a.0": ("U: I want a horror like [[Up (2009)]]", "R: [[Notting Hill (1999)]] or so", "U: ok", "R: bye"),
        "b.0": ("U: hi", "R: hi"),
        "d.0": ("U: alone",),
    }
    found = twins.alike(talk(TALK), talk(other), MOVIES)
    # Without titles and genres: i want a like or ok; i want a like or so ok bye: 2 · 6 / (6 + 8).
    assert values(found, "a.0") == {
        "words_alike": pytest.approx(12 / 14),
        "items_alike": 0.5,
        "turns_before_parting": 0,
        "turns_apart": 1,
        "words_apart": 1,
    }
    same = {"words_alike": 1, "items_alike": None, "turns_before_parting": 2, "turns_apart": 0, "words_apart": 0}
    assert values(found, "b.0") == same
    assert set(found["dialogue_id"]) == {"a.0", "b.0"}


def test_effects_are_twin_minus_placebo(items: pl.DataFrame) -> None:
    twin = {"a.0": ("U: I want an action movie", "R: [[Heat (1995)]]"), "b.0": ("U: hi", "R: hi")}
    placebo = {"a.0": ("U: hello", "R: [[Up (2009)]]"), "b.0": ("U: action", "R: hey"), "c.0": ("U: no",)}
    about = changes("comedy", "action", ["comedy"], ["action"])
    found = twins.effects(KIND, about, talk(TALK), talk(twin), talk(placebo), items, MOVIES)
    rows = {row["measure"]: row for row in found.iter_rows(named=True)}
    means = {name: tuple(row[who] for who in (FACTUAL, "twin", PLACEBO, "effect", "n")) for name, row in rows.items()}
    assert means["says_new"] == (0, 0.5, 0.5, 0, 2)
    assert means["says_old"] == (0.5, 0, 0, 0, 2)
    assert means["recommends_new"] == (0.5, 1, 0, 1, 1)  # b is recommended nothing
    assert means["turns_before_parting"] == (None, 1, 0, 1, 2)
    assert (rows["says_new"]["low"], rows["says_new"]["high"]) == (-1, 1)
    assert rows["says_new"]["p"] == 1
    assert twins.effects(KIND, about.clear(), talk({}), talk({}), talk({}), items, MOVIES).is_empty()
    assert "| genre | the user names the new genre | 0% | 50% | 50% | +0% [-100%, +100%] | 1.000 | 2 |" in (
        twins.formatted(found, MOVIES)
    )


class Blank:
    """Opinions of somebody who knows nothing."""

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        return False, None


def test_twins_talk_with_the_seeds_of_their_people(tmp_path: Path, items: pl.DataFrame) -> None:
    def user(prompt: str, seed: int) -> str:
        wish = prompt.partition("Looking for: ")[2].split()[0]
        return "" if prompt.count("assistant") > 2 else f"A {wish} movie, number {seed}"

    who = people(target_kinds=[["comedy"], ["action"], []], attributes=["comedy movie", "action movie", "movie"])
    twin = twins.other_kind(who, items, MOVIES, 1, 0)
    parameters = SimulationParameters(grounding="off", opener="recommender", seed=5)
    engines = ScriptedEngine(user), ScriptedEngine(lambda prompt, seed: f"Hi {seed}")
    told: list[tuple[int, int]] = []
    population = Population(who, items, NO_RATINGS, MOVIES, Blank())
    made = twins.talks(
        population,
        {KIND: twin},
        *agents(population, engines, parameters),
        parameters,
        tmp_path,
        lambda *n: told.append(n),
    )
    assert set(made) == {FACTUAL, PLACEBO, KIND}
    assert told[-1] == (8, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["factual", "kind", "placebo"]
    found = twins.effects(KIND, twin.changes, made[FACTUAL], made[KIND], made[PLACEBO], items, MOVIES)
    rows = {row["measure"]: row for row in found.iter_rows(named=True)}
    assert (rows["says_new"]["factual"], rows["says_new"]["twin"]) == (0, 1)
    # The same seeds: all is the same but the genre, so they part when the user first speaks.
    assert (rows["words_alike"]["twin"], rows["turns_before_parting"]["twin"]) == (1, 1)
    assert rows["words_alike"]["placebo"] < 1
    assert rows["turns_before_parting"]["placebo"] == 0
    again = twins.talks(population, {KIND: twin}, *agents(population, engines, parameters), parameters, tmp_path)
    assert all(a.equals(b) for name in made for a, b in zip(made[name], again[name], strict=True))
