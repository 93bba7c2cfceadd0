"""Summaries, target attributes and held-out items."""

import math
import random
import re

import polars as pl
import pytest

from crslib import schemas
from crslib.config import ROOT, ProfileParameters
from crslib.data import histories
from crslib.data.source import Feedback, Source
from crslib.dialogue import utterances
from crslib.errors import CrsError
from crslib.users import profiles
from crslib.users.targets import Target, further_trait, relax
from tests.support.domains import BOOKS, MOVIES

GENRES = ["action", "comedy", "drama", "horror", "romance", "sci-fi"]


def item(number: int | str, title: str, year: int | None, genres=(), directors=(), cast=()) -> dict:
    values = (str(number), title, year, list(genres), list(directors), list(cast), [], None, 0, None)
    return dict(zip(schemas.TABLES["items"], values, strict=True))


def items_frame(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))


def ratings_frame(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["ratings"]), orient="row")


@pytest.fixture(scope="module")
def world() -> tuple[pl.DataFrame, pl.DataFrame]:
    """80 films with unmistakable titles; 24 users with 30 ratings each, at times 0 to 29."""
    rng = random.Random(7)
    films = [
        item(
            number,
            f"Qx{number:02d} Film",
            rng.choice([1987, 1994, 1999, 2004]),
            rng.sample(GENRES, rng.choice([1, 2, 3])),
            [f"Director {rng.randrange(6)}"],
            [f"Actor {n}" for n in rng.sample(range(12), 3)],
        )
        for number in range(80)
    ]
    rows = []
    for user in range(24):
        for time, number in enumerate(rng.sample(range(80), 30)):
            rows.append((str(user), str(number), rng.choice([1.0, 2.0, 3.0, 4.0, 5.0]), time))
    return items_frame(films), ratings_frame(rows)


def parameters(**values) -> ProfileParameters:
    return ProfileParameters.parse({"n_profiles": 12, "min_k": 3, **values})


@pytest.fixture(scope="module", params=["heldout", "taste"])
def built(request, world) -> profiles.ProfileTables:
    return profiles.build(*world, parameters(target_mode=request.param), MOVIES)


# ── tables ──


def test_tables_have_their_schemas_and_are_sorted(built) -> None:
    for name, frame in (("profiles", built.profiles), ("holdouts", built.holdouts), ("items", built.items)):
        assert schemas.check(frame, name).height
    assert schemas.check(built.training, "ratings").height == 24 * 24
    assert built.profiles["profile_id"].to_list() == sorted(built.profiles["profile_id"])
    assert built.profiles.height == 12 and set(built.profiles["n_visible"]) == {24}


def test_holdouts_are_all_hidden_ratings_of_the_profiled_users_and_not_in_training(built, world) -> None:
    visible, hidden = histories.split(world[1], 0.2)
    profiled = built.profiles.select("profile_id", "user_id")
    expected = hidden.join(profiled, on="user_id").select("profile_id", "item_id", "rating")
    assert sorted(built.holdouts.drop("liked").rows()) == sorted(expected.rows())
    assert built.training.equals(visible)
    pairs = built.holdouts.join(profiled, on="profile_id").join(built.training, on=["user_id", "item_id"])
    assert pairs.is_empty()


def test_liked_is_against_the_visible_mean(built) -> None:
    means = dict(built.training.group_by("user_id").agg(pl.col("rating").mean()).rows())
    users = dict(built.profiles.select("profile_id", "user_id").rows())
    for profile, _, rating, liked in built.holdouts.rows():
        assert liked == (rating >= means[users[profile]])


def test_item_statistics_are_those_of_the_training_ratings(built) -> None:
    counts = dict(built.training.group_by("item_id").len().rows())
    assert all(n == counts.get(number, 0) for number, n in built.items.select("item_id", "n_ratings").rows())


def test_nothing_depends_on_the_order_of_rows(built, world) -> None:
    items, ratings = (frame.sample(fraction=1, shuffle=True, seed=3) for frame in world)
    again = profiles.build(items, ratings, parameters(target_mode=built.profiles["target_mode"][0]), MOVIES)
    for name in ("profiles", "holdouts", "training", "items"):
        assert getattr(again, name).equals(getattr(built, name)), name


def test_a_profile_does_not_depend_on_how_many_there_are(built, world) -> None:
    mode = built.profiles["target_mode"][0]
    few = profiles.build(*world, parameters(n_profiles=5, target_mode=mode), MOVIES).profiles
    assert few.height == 5
    assert few.equals(built.profiles.join(few, on="profile_id", how="semi"))


def test_a_summary_names_as_many_loved_items_as_its_domain_says(world) -> None:
    """The first of them, and of people with more of them no others."""

    def loved(*shares: float) -> list[list[str]]:
        summary = MOVIES.summary.model_copy(update={"n_loved": shares})
        made = profiles.build(*world, parameters(), MOVIES.model_copy(update={"summary": summary})).profiles
        for said, ids in made.select("summary", "loved_items").iter_rows():
            assert ("You loved" in said) == bool(ids)
        return made["loved_items"].to_list()

    all_three = loved(0, 0, 0, 1)
    assert {len(ids) for ids in all_three} == {3} and set(map(tuple, loved(1, 0, 0, 0))) == {()}
    assert loved(0, 1, 0, 0) == [ids[:1] for ids in all_three]
    mixed = loved(1, 1, 1, 1)
    assert len({len(ids) for ids in mixed}) > 1
    assert mixed == [whole[: len(part)] for whole, part in zip(all_three, mixed, strict=True)]


def test_the_seed_decides_which_users_are_drawn(world) -> None:
    taken = {seed: set(profiles.build(*world, parameters(seed=seed), MOVIES).profiles["user_id"]) for seed in (0, 1)}
    assert taken[0] != taken[1]


def test_summary_and_taste_depend_on_the_visible_part_only(built, world) -> None:
    items, ratings = world
    visible, hidden = histories.split(ratings, 0.2)
    seen = {user: set(part["item_id"]) for (user,), part in visible.group_by("user_id")}
    rng, rows = random.Random(1), []
    for user, part in hidden.group_by("user_id", maintain_order=True):
        others = rng.sample([number for number in items["item_id"] if number not in seen[user[0]]], part.height)
        rows += [(user[0], number, 5.0, time) for number, time in zip(others, part["rated_at"], strict=True)]
    mode = built.profiles["target_mode"][0]
    changed = profiles.build(
        items, pl.concat([visible, ratings_frame(rows)]), parameters(target_mode=mode, n_profiles=20), MOVIES
    )
    both = built.profiles.join(changed.profiles, on="profile_id", suffix="_changed")
    assert both.height >= 8
    from_visible = ["summary", "liked_kinds", "disliked_kinds", "liked_decade", "liked_makers", "loved_items"]
    from_visible += ["attributes", "relaxed"] if mode == "taste" else []
    for column in from_visible:
        assert both[column].to_list() == both[f"{column}_changed"].to_list(), column
    if mode == "heldout":
        assert both["attributes"].to_list() != both["attributes_changed"].to_list()


def test_no_held_out_title_in_a_summary_and_no_title_in_attributes(built) -> None:
    titles = dict(built.items.select("item_id", "title").rows())
    texts = {row["profile_id"]: row for row in built.profiles.iter_rows(named=True)}
    for profile, number in built.holdouts.select("profile_id", "item_id").rows():
        assert titles[number] not in texts[profile]["summary"]
    assert not any("Qx" in row["attributes"] for row in texts.values())
    assert any("Qx" in row["summary"] for row in texts.values())


def satisfies(film: dict, row: dict) -> bool:
    return (
        set(row["target_kinds"]) <= set(film["kinds"])
        and (row["target_decade"] is None or film["year"] // 10 * 10 == row["target_decade"])
        and (row["target_person"] is None or row["target_person"] in film["people"])
        and (row["target_maker"] is None or row["target_maker"] in film["makers"])
    )


def test_k_anonymity_is_the_number_of_items_that_match_and_reaches_min_k(built) -> None:
    films = built.items.to_dicts()
    for row in built.profiles.iter_rows(named=True):
        assert row["k_anonymity"] == sum(satisfies(film, row) for film in films) >= 3


def test_a_held_out_liked_item_satisfies_the_attributes(world) -> None:
    for min_k in (1, 3, 10):
        built = profiles.build(*world, parameters(n_profiles=20, min_k=min_k), MOVIES)
        films = {film["item_id"]: film for film in built.items.iter_rows(named=True)}
        liked = built.holdouts.filter("liked")
        for row in built.profiles.iter_rows(named=True):
            targets = liked.filter(pl.col("profile_id") == row["profile_id"])["item_id"]
            assert any(satisfies(films[target], row) for target in targets)


def test_what_a_simulation_is_made_of_has_no_hidden_item(world: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    built = profiles.build(*world, parameters(), MOVIES)
    assert built.visible.keys() == {"profiles", "items", "training", "domain", "source"}
    assert built.holdouts.height and not any(built.visible[name] is built.holdouts for name in built.visible)


def test_all_kinds_of_attributes_occur_and_are_relaxed(world) -> None:
    built = [profiles.build(*world, parameters(n_profiles=20, seed=seed), MOVIES).profiles for seed in range(8)]
    rows = pl.concat(built)
    assert rows["target_kinds"].list.len().eq(1).mean() > 0.5  # as people ask
    assert rows["target_person"].drop_nulls().len() and rows["target_decade"].drop_nulls().len()
    assert rows["target_kinds"].list.len().max() == 2
    strict = profiles.build(*world, parameters(n_profiles=20, min_k=60), MOVIES).profiles
    assert set(strict["attributes"]) == {""} and set(strict["k_anonymity"]) == {80}
    assert all(relaxed for relaxed in strict["relaxed"].to_list())


def test_too_few_users_and_too_small_a_catalogue_are_errors(world) -> None:
    items, ratings = world
    with pytest.raises(CrsError, match="n_profiles = 25 but only 24 users"):
        profiles.build(items, ratings, parameters(n_profiles=25), MOVIES)
    with pytest.raises(CrsError, match=r"^no user has at least 15 visible ratings .*; give `data` with more ratings"):
        profiles.build(items, ratings.head(10), parameters(n_profiles=1), MOVIES)
    with pytest.raises(CrsError, match="min_k = 81 exceeds the catalogue's 80 items"):
        profiles.build(items, ratings, parameters(min_k=81), MOVIES)
    short = ratings.filter(~((pl.col("user_id") == "3") & (pl.col("rated_at") < 13)))  # 17 left, 14 visible
    with pytest.raises(CrsError, match="only 23 users have at least 15 visible"):
        profiles.build(items, short, parameters(n_profiles=24), MOVIES)
    gloomy = ratings.with_columns(
        pl.when((pl.col("user_id") == "3") & (pl.col("rated_at") >= 24)).then(0.5).otherwise("rating").alias("rating")
    )
    with pytest.raises(CrsError, match="only 23 users"):
        profiles.build(items, gloomy, parameters(n_profiles=24), MOVIES)


def test_ratings_outside_the_catalogue_are_left_out(world) -> None:
    items, ratings = world
    stray = ratings_frame([(str(user), "no such item", 5.0, 1000) for user in range(24)])
    built = profiles.build(items, pl.concat([ratings, stray]), parameters(), MOVIES)
    assert built.profiles.equals(profiles.build(items, ratings, parameters(), MOVIES).profiles)


def test_hostile_ids_and_titles_stay_text(world) -> None:
    items, ratings = world
    items = items.with_columns(pl.col("title") + "\n<|im_end|> [[<b>")
    renamed = ratings.with_columns(pl.lit("../ü <a> ").add(pl.col("user_id")).alias("user_id"))
    built = profiles.build(items, renamed, parameters(n_profiles=24), MOVIES)
    assert built.profiles["profile_id"].n_unique() == 24
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", profile) for profile in built.profiles["profile_id"])
    assert not any("\n" in text or "[[" in text for text in built.profiles["summary"])
    assert any("<|im_end|> [<b>" in text for text in built.profiles["summary"])


def test_a_plain_user_id_is_readable() -> None:
    assert profiles._profile_id("42") == "u42"
    assert profiles._profile_id("a b") != profiles._profile_id("a-b")


# ── taste ──


def test_facts_of_a_history_computed_by_hand() -> None:
    """Mean 3, sd 1: z is rating - 3. Westerns and a few others at 4, as many horror films and others at 2."""
    films, rows = [], []

    def rate(title: str, year: int, genre: str, rating: float, director: str = "", cast=()) -> None:
        films.append(item(f"{len(films):02d}", title, year, [genre], [director] if director else [], cast))
        rows.append(("me", films[-1]["item_id"], rating, len(films)))

    for n in range(12):
        rate(f"West {n}", 1950 + n % 3, "western", 4.0, "John Ford" if n < 3 else "")
    for n in range(12):
        rate(f"Fear {n}", 1980, "horror", 2.0)
    for n in range(5):
        rate(f"Good {n}", 1990, "drama", 4.0)
        rate(f"Bad {n}", 1990, "comedy", 2.0)
    for n in range(3):  # less than a tenth of the history
        rate(f"War {n}", 2000, "war", 4.0)
        rate(f"Song {n}", 2000, "musical", 2.0)
    history = ratings_frame(rows)
    history = histories.standardise(history, histories.scales(history))
    traits = profiles._traits(items_frame(films).with_columns(pl.lit(1, pl.Int32).alias("n_ratings")), MOVIES)
    history = history.join(traits, on="item_id").with_columns(
        pl.when(pl.col("item_id") == "20").then(9).otherwise("n_ratings").alias("n_ratings")
    )
    affinities = profiles._affinities(history, profiles._by_trait(traits))
    known = {(kind, name): (n, liked, value) for _, kind, name, n, liked, value in affinities.rows()}
    assert known["kind", "western"] == (12, 12, 12 / 32)
    assert known["kind", "horror"] == (12, 0, -12 / 32)
    assert known["kind", "drama"] == (5, 5, 5 / 25)
    assert known["maker", "John Ford"] == (3, 3, round(3 / 7, 9))
    assert known["decade", "1990"] == (10, 5, 0.0)
    [facts] = profiles._facts(history, affinities).to_dicts()
    assert facts == {
        "user_id": "me",
        "n_visible": 40,
        "liked_kinds": ["western", "drama"],
        "disliked_kinds": ["horror"],
        "liked_decade": 1950,
        "liked_makers": ["John Ford"],
        "liked_attributes": [],
        "loved_items": ["00", "01", "02"],
        "disliked_items": ["20"],
    }
    names = {film["item_id"]: utterances.item_name(film["title"], film["year"]) for film in films}
    assert profiles.summarise(facts, names, MOVIES) == (
        "You enjoy western and drama movies, mostly from the 1950s. You loved West 0 (1950), West 1 (1951) and "
        "West 2 (1952). You like films by John Ford. You did not like Fear 8 (1980). Horror is not for you."
    )


def test_stars_are_the_actors_of_the_most_rated_films() -> None:
    films = [
        item("a", "A", 1990, cast=["Zed", "Extra", "Star", "Star"]),
        item("b", "B", 1990, cast=["Star"]),
        item("c", "C", 1990, cast=[f"P{n}" for n in range(9)]),
        item("d", "D", None),
    ]
    frame = items_frame(films).with_columns(pl.Series("n_ratings", [5, 50, 1, 0], dtype=pl.Int32))
    stars = dict(profiles._traits(frame, MOVIES).select("item_id", "best_known").rows())
    assert stars == {"a": ["Star", "Extra", "Zed"], "b": ["Star"], "c": ["P0", "P1", "P2", "P3", "P4"], "d": []}


FACTS = {
    "liked_kinds": [],
    "disliked_kinds": [],
    "liked_decade": None,
    "liked_makers": [],
    "loved_items": [],
    "disliked_items": [],
}


@pytest.mark.parametrize(
    ("facts", "summary"),
    [
        ({}, ""),
        ({"liked_kinds": ["drama"]}, "You enjoy drama movies."),
        ({"liked_decade": 1990}, ""),
        ({"loved_items": ["1"]}, "You loved Heat (1995)."),
        ({"loved_items": ["1", "2"]}, "You loved Heat (1995) and Up."),
        ({"disliked_items": ["2"], "disliked_kinds": ["sci-fi"]}, "You did not like Up. Sci-fi is not for you."),
    ],
)
def test_parts_of_a_summary_may_be_missing(facts, summary) -> None:
    assert profiles.summarise({**FACTS, **facts}, {"1": "Heat (1995)", "2": "Up"}, MOVIES) == summary


# ── attributes ──


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target(), ""),
        (Target(("drama",)), "drama movie"),
        (Target(decade=1990), "movie from the 1990s"),
        (Target(("sci-fi", "action"), 1980, "A. B.", "C D"), "sci-fi/action movie from the 1980s with A. B. by C D"),
        (Target(person="x\ny"), "movie with x y"),
    ],
)
def test_attributes_as_text(target, text) -> None:
    assert target.words(MOVIES) == text


def test_relaxation_drops_the_most_identifying_first() -> None:
    full = Target(("drama", "war"), 1990, "A", "D")
    counts = {
        full: 1,
        Target(("drama", "war"), 1990, "A"): 2,
        Target(("drama", "war"), 1990): 4,
        Target(("drama",), 1990): 8,
        Target(("drama",)): 16,
    }
    assert relax(full, 1, counts.__getitem__) == (full, [])
    assert relax(full, 3, counts.__getitem__) == (Target(("drama", "war"), 1990), ["maker", "person"])
    assert relax(full, 9, counts.__getitem__) == (Target(("drama",)), ["maker", "person", "kind", "decade"])
    assert relax(full, 99, counts.__getitem__) == (Target(), ["maker", "person", "kind", "decade", "kind"])


# ── built-in data ──


def test_profiles_do_not_depend_on_the_parts_in_which_ratings_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profiles.of_data(ProfileParameters(n_profiles=20))
    monkeypatch.setattr(histories, "PART", 5_000)
    parts = profiles.of_data(ProfileParameters(n_profiles=20))
    for name in ("profiles", "holdouts", "training", "items"):
        assert getattr(whole, name).equals(getattr(parts, name)), name


@pytest.mark.parametrize("mode", ["heldout", "taste"])
def test_profiles_of_the_built_in_data_name_no_held_out_item(mode) -> None:
    if not (ROOT / "data" / "ratings.parquet").exists():
        pytest.skip("data/ratings.parquet is not built; run `crs data build`")
    items, ratings = (pl.read_parquet(ROOT / "data" / f"{name}.parquet") for name in ("items", "ratings"))
    built = profiles.build(items, ratings, ProfileParameters(n_profiles=300, target_mode=mode), MOVIES)
    names = {
        number: utterances.item_name(title, year) for number, title, year in items["item_id", "title", "year"].rows()
    }
    texts = built.holdouts.join(built.profiles, on="profile_id").select("item_id", "summary", "attributes")
    assert not [names[number] for number, summary, text in texts.rows() if names[number] in summary + text]
    assert built.profiles["k_anonymity"].min() >= 20
    assert built.profiles["attributes"].n_unique() >= 70
    pattern = (
        r"( You enjoy [^.]+ movies(, mostly from the \d{4}s)?\.)?( You loved .+?\.)?"
        r"( You like films by .+?\.)?( You did not like .+?\.)?( [\w-]+ is not for you\.)?"
    )
    assert all(summary and re.fullmatch(pattern, f" {summary}") for summary in built.profiles["summary"])
    counts = dict(built.profiles["loved_items"].list.len().value_counts().iter_rows())
    assert [counts[n] / 300 for n in range(4)] == pytest.approx([0.26, 0.34, 0.28, 0.12], abs=0.06)


# ── counts and presence ─────────────────────────────────────────────────────────────────────────────────────────────


def implicit(kind: str) -> tuple[profiles.ProfileTables, pl.DataFrame]:
    """Profiles of 20 users: each has 20 of 40 items; "0" to "9" have 16 crime books by one author, the others 4."""
    books = [
        item(n, f"Book {n}", 1990 + n % 10, ["crime" if n < 20 else "poetry"], ["Ada Quill" if n < 20 else "Ben Ito"])
        for n in range(40)
    ]
    rows = []
    for user in range(20):
        n_crime = 16 if user < 10 else 4
        chosen = [*range(n_crime), *range(20, 40 - n_crime)]
        rows += [(str(user), str(n), 1.0 if kind == "presence" else (1 + n % 4) / 4, t) for t, n in enumerate(chosen)]
    source = Source(domain="books", feedback=Feedback(kind=kind))
    asked = parameters(n_profiles=20, min_k=2, holdout_share=0.1)
    return profiles.build(items_frame(books), ratings_frame(rows), asked, MOVIES, source), ratings_frame(rows)


@pytest.mark.parametrize("kind", ["presence", "counts"])
def test_without_marks_nothing_is_disliked_and_taste_is_what_one_has_more_of(kind: str) -> None:
    built, _ = implicit(kind)
    assert not built.profiles["disliked_items"].explode().drop_nulls().len()
    assert not built.profiles["disliked_kinds"].explode().drop_nulls().len()
    assert not any("not like" in summary or "not for you" in summary for summary in built.profiles["summary"])
    taste = dict(built.profiles.select("user_id", "liked_kinds").iter_rows())
    assert taste == {str(user): ["crime"] if user < 10 else ["poetry"] for user in range(20)}
    assert (built.source.domain, built.source.feedback.kind) == ("books", kind)


def test_presence_is_liked_and_the_upper_part_of_counts_is() -> None:
    assert implicit("presence")[0].holdouts["liked"].all()
    built, _ = implicit("counts")
    means = dict(built.training.group_by("user_id").agg(pl.col("rating").mean()).rows())
    hidden = built.holdouts.join(built.profiles.select("profile_id", "user_id"), on="profile_id")
    for row in hidden.iter_rows(named=True):
        assert row["liked"] == (row["rating"] >= means[row["user_id"]])


def test_lifts_by_hand() -> None:
    traits = pl.DataFrame(
        {
            "item_id": ["1", "2"],
            "kinds": [["a"], ["b"]],
            "decade": [None, 1990],
            "makers": [["m"], []],
            "best_known": [[], []],
            "attributes": [[{"name": "tag", "value": "t"}], []],
        },
        schema_overrides={"decade": pl.Int32, "best_known": pl.List(pl.String)},
    )
    training = ratings_frame([("u", "1", 1.0, None), ("v", "1", 0.5, None), ("v", "2", 1.0, None)])
    history = histories.standardise(training, histories.scales(training), "counts").filter(user_id="v")
    lifts = profiles._lifts(history.join(traits, on="item_id"), training, profiles._by_trait(traits))
    # Item 1 has 1.5 of the whole weight 2.5, item 2 has 1.0; v has 0.5 and 1.0.
    assert lifts.select("trait", "name", "n", "n_liked").rows() == [
        (further_trait("tag"), "t", 1, 0),
        ("decade", "1990", 1, 1),
        ("kind", "a", 1, 0),
        ("kind", "b", 1, 1),
        ("maker", "m", 1, 0),
    ]
    expected = [0.0, math.log(21 / 20.6), 0.0, math.log(21 / 20.6), 0.0]
    assert lifts["affinity"].to_list() == pytest.approx(expected, abs=1e-9)


def test_a_tag_that_is_a_title_of_the_catalogue_is_neither_wish_nor_summary() -> None:
    rows = [item(1, "Star Wars", 1977, ["sci-fi"]), item(2, "Alien", 1979, ["sci-fi"])]
    tags = [[{"name": "tag", "value": value} for value in ("star wars", "space", "Alien")]] * 2
    frame = items_frame(rows).with_columns(pl.Series("attributes", tags, dtype=schemas.TABLES["items"]["attributes"]))
    domain = BOOKS
    assert "tag" in domain.askable
    said = profiles._traits(frame.with_columns(pl.lit(1, pl.Int32).alias("n_ratings")), domain)["attributes"].to_list()
    assert said == [[{"name": "tag", "value": "space"}]] * 2


def test_a_kind_that_is_a_title_is_guarded_unless_it_is_a_word_of_the_domain() -> None:
    rows = [item(1, "Thriller", 1977, ["thriller", "star wars"]), item(2, "Star Wars", 1979, ["space"])]
    frame = items_frame(rows).with_columns(pl.lit(1, pl.Int32).alias("n_ratings"))
    assert "thriller" in BOOKS.kinds and "space" not in BOOKS.kinds
    assert profiles._traits(frame, BOOKS)["kinds"].to_list() == [["thriller"], ["space"]]
