"""What a user remembers or thinks of an item; how well the taste model predicts."""

import inspect
import itertools
import math
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from crslib import schemas
from crslib.config import ROOT, ProfileParameters, SimulationParameters
from crslib.data import histories, tables
from crslib.data.catalog import Catalog
from crslib.data.corpora import redial
from crslib.dialogue.stances import serves_wish
from crslib.simulation import Population
from crslib.training.knowledge import Seekers
from crslib.users import opinions, profiles
from crslib.users.opinions import ChoiceModel, Opinions, PeoplesOpinions, TasteModel, of_feedback
from tests.support.domains import MOVIES


def items_frame(genres: dict[str, list[str]], year: int | None = 1995) -> pl.DataFrame:
    rows = [(number, f"Film {number}", year, names, [], [], [], None, 0, None) for number, names in genres.items()]
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]), orient="row")


def ratings_frame(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["ratings"]), orient="row")


def profiles_frame(**users: str) -> pl.DataFrame:
    return pl.DataFrame({"profile_id": list(users), "user_id": list(users.values())})


@pytest.fixture(scope="module")
def camps() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """40 users who rate 20 of 60 films: half like action and dislike romance, the other half the reverse. Items,
    their ratings, and the same users' opinions of the films that they did not rate."""
    rng = random.Random(5)
    genres = {f"{number:02d}": ["action" if number % 2 else "romance"] for number in range(60)}
    rated, judged = [], []
    for user in range(40):
        seen = set(rng.sample(sorted(genres), 20))
        for number in genres:
            likes = (genres[number] == ["action"]) == (user % 2 == 1)
            if number in seen:
                rated.append((str(user), number, (4.0 if likes else 2.0) + rng.choice([-0.5, 0, 0.5]), None))
            else:
                judged.append((f"p{user}", number, likes))
    schema = {"profile_id": pl.String, "item_id": pl.String, "liked": pl.Boolean}
    return items_frame(genres), ratings_frame(rated), pl.DataFrame(judged, schema=schema, orient="row")


def chosen_only(camps) -> pl.DataFrame:
    """The items that each user of the two camps liked, as presence."""
    return camps[1].filter(pl.col("rating") > 3).with_columns(rating=pl.lit(1.0))


def test_presence_is_liked_and_likeness_decides_what_is_of_interest(camps) -> None:
    known = of_feedback("presence")(profiles_frame(p1="1"), chosen_only(camps), camps[0])
    seen = chosen_only(camps).filter(user_id="1")["item_id"].to_list()
    assert {known.of("p1", item) for item in seen} == {(True, True)}
    unseen = [item for item in camps[0]["item_id"] if item not in seen]
    wanted = [item for item in unseen if known.of("p1", item)[1]]
    assert 0.2 <= len(wanted) / len(unseen) <= 0.3
    assert all(int(item) % 2 for item in wanted), "user 1 chose films with odd numbers only"
    assert known.of("p1", "not in the catalogue") == (False, None)


def test_counts_below_the_own_mean_are_no_dislikes() -> None:
    rows = [("a", "1", 1.0, None), ("a", "2", 0.2, None), ("b", "1", 1.0, None), ("b", "3", 1.0, None)]
    known = of_feedback("counts")(profiles_frame(p="a"), ratings_frame(rows), items_frame({n: ["x"] for n in "123"}))
    assert (known.of("p", "1"), known.of("p", "2")) == ((True, True), (True, None))


def test_the_order_of_rows_does_not_matter_to_the_choice_model(camps) -> None:
    rated = chosen_only(camps)
    shuffled = ChoiceModel.fit(rated.sample(fraction=1, shuffle=True, seed=1), camps[0].reverse())
    model = ChoiceModel.fit(rated, camps[0])
    ids = camps[0]["item_id"].to_list()
    assert np.allclose(model.predict("3", ids), shuffled.predict("3", ids), atol=1e-6)
    assert np.isnan(model.predict("3", ["nowhere"])).all()
    assert (model.predict("nobody", ids) == 0).all()


def test_seen_items_are_liked_by_the_users_own_mean(camps) -> None:
    items = camps[0]
    training = ratings_frame(
        [("a", "00", 5.0, 1), ("a", "01", 4.0, 1), ("a", "02", 4.5, 1), ("b", "00", 4.0, 1), ("b", "01", 1.0, 1)]
    )
    known = Opinions(profiles_frame(pa="a", pb="b"), training, items)
    assert known.of("pa", "00") == (True, True)
    assert known.of("pa", "01") == (True, False)
    assert known.of("pa", "02") == (True, True)
    assert known.of("pb", "00") == (True, True)
    assert known.of("pb", "02")[0] is False


def test_an_unknown_title_has_no_opinion(camps) -> None:
    known = Opinions(profiles_frame(pa="1"), camps[1], camps[0])
    assert known.of("pa", None) == (False, None)
    assert known.of("pa", "not in the catalogue") == (False, None)


def test_unseen_items_follow_the_taste(camps) -> None:
    items, training, judged = camps
    known = Opinions(profiles_frame(**{f"p{user}": str(user) for user in range(40)}), training, items)
    answers = [(known.of(profile, number), liked) for profile, number, liked in judged.rows()]
    assert all(seen is False for (seen, _), _ in answers)
    assert np.mean([interested == liked for (_, interested), liked in answers]) > 0.95


def test_people_have_seen_more_than_they_have_rated(camps) -> None:
    """As often as popularity says, the same films every time; what was rated has been seen."""
    items, training, _ = camps
    items = items.with_columns(n_ratings=pl.Series([1, 40] * 30, dtype=pl.Int32))
    known = Opinions(profiles_frame(**{f"p{user}": str(user) for user in range(40)}), training, items)
    more = PeoplesOpinions(known, training, items)
    rated = set(training.select("user_id", "item_id").iter_rows())
    drawn: dict[int, list[bool]] = {1: [], 40: []}
    for user, (item, n) in itertools.product(range(40), items.select("item_id", "n_ratings").iter_rows()):
        seen, liked = more.of(f"p{user}", item)
        assert (seen, liked) == more.of(f"p{user}", item)
        assert liked or not known.of(f"p{user}", item)[1], "what was liked stays so"
        if (str(user), item) in rated:
            assert seen
        else:
            drawn[n].append(seen)
    seldom, often = opinions.chance_of_seen(np.array([1 / 40, 1.0]))
    assert (seldom, often) == pytest.approx((0.593, 0.832), abs=1e-3)
    assert np.mean(drawn[1]) == pytest.approx(seldom, abs=0.05)
    assert np.mean(drawn[40]) == pytest.approx(often, abs=0.05)
    assert more.of("p0", None) == more.of("p0", "not in the catalogue") == (False, None)


def test_people_dislike_as_much_as_their_answers_say_and_what_they_like_least() -> None:
    items, ratings = tables.load(ROOT / "data")
    users = ratings["user_id"].unique().sort()[::7].to_list()
    known = Opinions(profiles_frame(**{user: user for user in users}), ratings, items)
    more = PeoplesOpinions(known, ratings, items)
    scale = histories.standardise(ratings, histories.scales(ratings)).filter(pl.col("user_id").is_in(users))
    for user, item, z in scale.select("user_id", "item_id", "z").iter_rows():
        assert more.of(user, item) == (True, z > -1), "as the summary, whose disliked item has a z of at most -1"
    rated = set(scale.select("user_id", "item_id").iter_rows())
    random = np.random.default_rng(1)
    popular = random.choice(ratings["item_id"].to_numpy(), (len(users), 150))
    answers: dict[bool, list[bool]] = {True: [], False: []}
    for user, of_user in zip(users, popular.tolist(), strict=True):
        liked: dict[bool, list[tuple[float, bool]]] = {True: [], False: []}
        for item in set(of_user):
            if (user, item) not in rated:
                seen, likes = more.of(user, item)
                liked[seen].append((known.predicted(user, item), likes))
        for seen, each in liked.items():
            answers[seen] += [likes for _, likes in each]
            assert [likes for _, likes in sorted(each)] == sorted(likes for _, likes in each)
    shares = {seen: 1 - np.mean(each) for seen, each in answers.items()}
    assert shares == pytest.approx({seen: opinions.DISLIKES[seen, None] for seen in shares}, abs=0.025)


def test_what_has_nothing_to_do_with_the_wish_is_disliked_as_much_more_as_by_people() -> None:
    items, ratings = tables.load(ROOT / "data")
    users = ratings["user_id"].unique().sort()[::7].to_list()
    known = Opinions(profiles_frame(**{user: user for user in users}), ratings, items)
    popular = np.random.default_rng(1).choice(ratings["item_id"].to_numpy(), (len(users), 150))
    asked = {(user, item) for user, of_user in zip(users, popular.tolist(), strict=True) for item in of_user}
    liked = {
        serves: {(user, item) for user, item in asked if of(user, item)[1]}
        for serves in (True, False)
        for of in (PeoplesOpinions(known, ratings, items, lambda user, item, serves=serves: serves).of,)
    }
    assert liked[False] < liked[True]
    more = (len(liked[True]) - len(liked[False])) / len(asked)
    assert 0.01 < more < 0.029, "between the differences of what was seen and what was not; rated ones do not change"


def test_of_presence_nothing_seen_is_disliked_whether_it_was_chosen_or_not(camps) -> None:
    known = of_feedback("presence")(profiles_frame(p1="1"), chosen_only(camps), camps[0])
    more = PeoplesOpinions(known, chosen_only(camps), camps[0])
    answers = {more.of("p1", item) for item in camps[0]["item_id"]}
    assert answers == {(True, True), (True, None), (False, True), (False, False)}


def test_a_simulation_takes_what_users_have_seen_as_its_parameter_says(camps) -> None:
    items, training, _ = camps
    wish = {"kinds": [["action"]], "decade": [None], "person": [None], "maker": [None], "attributes": [None]}
    looking = profiles_frame(p1="1").with_columns(**{f"target_{name}": pl.Series(one) for name, one in wish.items()})
    population = Population(looking, items, training, MOVIES)
    rated = population.opinions_for(SimulationParameters(opinions="ratings"))
    more = population.opinions_for(SimulationParameters(opinions="people"))
    shares = [np.mean([each.of("p1", item)[0] for item in items["item_id"]]) for each in (rated, more)]
    assert shares[0] == pytest.approx(20 / 60) and shares[1] > 0.6


def test_what_people_have_seen_and_dislike_is_that_of_their_answers(shared_data: Path) -> None:
    """Seekers' answers on the films that recommenders named to them, by the films' share of the built-in users."""
    items, ratings = tables.load(ROOT / "data")
    catalog, n_users = Catalog(items, MOVIES), ratings["user_id"].n_unique()
    n_ratings = dict(items.select("item_id", "n_ratings").iter_rows())
    answers = []
    liked: defaultdict[tuple[bool, bool | None], list[bool]] = defaultdict(list)
    facts = {row["item_id"]: row for row in redial.items().iter_rows(named=True)}
    seekers = Seekers(redial.items(), MOVIES)
    for dialogue in redial.read(shared_data / "redial", "train"):
        wish = seekers.wishes(dialogue)
        by_recommender = (turn for turn in dialogue.turns if turn.role == "recommender")
        named = {mention.item_id for turn in by_recommender for mention in turn.mentions}
        for item_id in sorted(named):
            item = dialogue.items[item_id]
            if item.seen is not None and item.liked is not None:
                serves = serves_wish(facts[item_id], wish, MOVIES) if item_id in facts else None
                liked[item.seen, serves].append(item.liked)
            if item.seen is not None and (found := catalog.find(item.name)) is not None:
                answers.append((math.log(max(n_ratings[found], 1) / n_users), item.seen))
    x, seen = np.array(answers).T
    x = np.column_stack([np.ones(len(x)), x])
    fitted = np.zeros(2)
    for _ in range(20):  # Newton's method
        chance = expit(x @ fitted)
        fitted += np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x, x.T @ (seen - chance))
    assert len(seen) > 9000
    assert fitted == pytest.approx(opinions.SEEN, abs=0.005)
    assert sum(len(each) for each in liked.values()) == 12_379
    assert {case: 1 - np.mean(each) for case, each in liked.items()} == pytest.approx(opinions.DISLIKES, abs=6e-4)


def test_opinions_take_no_held_out_items() -> None:
    assert list(inspect.signature(PeoplesOpinions).parameters) == ["opinions", "training", "items", "serves"]
    assert list(inspect.signature(Opinions).parameters) == ["profiles", "training", "items"]
    assert list(inspect.signature(TasteModel.fit).parameters) == ["training", "items"]


def test_the_model_does_not_depend_on_the_order_of_rows(camps) -> None:
    items, training, _ = camps
    shuffled = TasteModel.fit(training.sample(fraction=1, shuffle=True, seed=1), items.reverse())
    model = TasteModel.fit(training, items)
    for user in ("0", "1", "39"):
        assert model.predict(user, items["item_id"]).tolist() == shuffled.predict(user, items["item_id"]).tolist()
    assert model.threshold == shuffled.threshold


def test_quality_is_the_mean_z_shrunk_to_the_prediction_from_genres() -> None:
    """Two users, mean 3 and sd 1; with equal content and popularity the prior is one number for both items."""
    rows = [(user, number, rating, None) for user in "ab" for number, rating in (("1", 4.0), ("2", 2.0))]
    model = TasteModel.fit(ratings_frame(rows), items_frame({"1": ["drama"], "2": ["drama"]}))
    high, low = model.quality
    assert high - low == pytest.approx((2 - -2) / (2 + opinions.ITEM_WEIGHT))
    assert high + low == pytest.approx(0, abs=1e-9)


def test_above_the_threshold_liking_is_more_likely_than_not(camps) -> None:
    items, training, _ = camps
    model = TasteModel.fit(training, items)
    scale = training.group_by("user_id").agg(
        pl.col("rating").mean().alias("mean"), pl.col("rating").std(ddof=0).alias("sd")
    )
    z = training.join(scale, on="user_id").with_columns(
        ((pl.col("rating") - pl.col("mean")) / pl.max_horizontal("sd", pl.lit(0.5))).alias("z")
    )
    rows = dict(zip(items["item_id"], model.quality, strict=True))
    residual = [value - rows[number] for number, value in z.select("item_id", "z").rows()]
    assert model.threshold == pytest.approx(-np.median(residual), abs=1e-6)


def test_a_user_without_ratings_has_the_average_taste(camps) -> None:
    items, training, _ = camps
    model = TasteModel.fit(training, items)
    predicted = model.predict("nobody", [*items["item_id"], "unknown"])
    assert predicted[:-1] == pytest.approx(model.quality, abs=1e-6)
    assert np.isnan(predicted[-1])


def test_a_catalogue_without_genres_and_years_is_no_error() -> None:
    items = items_frame({"1": [], "2": []}, year=None)
    assert Opinions(profiles_frame(p="a"), ratings_frame([("a", "1", 3.0, None)]), items).of("p", "2")[0] is False


class Fixed(TasteModel):
    """Predicts the number that is an item's id."""

    def __init__(self) -> None: ...

    def predict(self, user_id, item_ids):
        return np.array([float(number) for number in item_ids])


def test_auc_by_hand() -> None:
    rows = [
        *[("p", number, number in "34") for number in ("1", "2", "3", "4")],  # perfect
        *[("q", number, number in "13") for number in ("1", "2", "3")],  # 3 above 2, 1 below
        *[("r", number, liked) for number, liked in (("5", True), ("5.0", False), ("nan", True))],  # a tie; unknown
        ("s", "1", True),  # only one kind
    ]
    judged = pl.DataFrame(rows, schema=["profile_id", "item_id", "liked"], orient="row")
    areas = opinions.auc(Fixed(), profiles_frame(p="a", q="b", r="c", s="d"), judged)
    assert areas.rows() == [("p", 4, 1.0), ("q", 3, 0.5), ("r", 2, 0.5)]
    assert opinions.auc(Fixed(), profiles_frame(z="z"), judged).is_empty()


def test_the_taste_model_beats_the_item_mean_on_the_built_in_data() -> None:
    if not (ROOT / "data" / "ratings.parquet").exists():
        pytest.skip("data/ratings.parquet is not built; run `crs data build`")
    items, ratings = (pl.read_parquet(ROOT / "data" / f"{name}.parquet") for name in ("items", "ratings"))
    built = profiles.build(items, ratings, ProfileParameters(n_profiles=600), MOVIES)
    model = TasteModel.fit(built.training, built.items)

    class AverageTaste(TasteModel):
        def _taste(self, user_id):
            return np.zeros(self.features.shape[1])

    average = AverageTaste(built.items["item_id"].to_list(), model.quality, model.features, 0.0)
    personal, common = (opinions.auc(m, built.profiles, built.holdouts)["auc"].mean() for m in (model, average))
    assert personal > 0.66
    assert personal > common + 0.01


def test_a_summary_names_as_many_loved_films_as_seekers_summaries_and_these_name_more_films(shared_data: Path) -> None:
    """`n_loved` of the domain, from ReDial's training part; films per turn of seekers with none and with three."""
    seekers = Seekers(redial.items(), MOVIES)
    turns: defaultdict[int, list[int]] = defaultdict(list)
    counts: defaultdict[int, int] = defaultdict(int)
    for dialogue in redial.read(shared_data / "redial", "train"):
        n = len(seekers.facts(dialogue)["loved_items"])
        counts[n] += 1
        turns[n] += [len(turn.mentions) for turn in dialogue.turns if turn.role == "user"]
    shares = [100 * counts[n] / sum(counts.values()) for n in range(4)]
    assert shares == pytest.approx(MOVIES.summary.n_loved, abs=0.5)
    assert np.mean(turns[0]) == pytest.approx(0.249, abs=0.001)
    assert np.mean(turns[3]) == pytest.approx(0.645, abs=0.001)
