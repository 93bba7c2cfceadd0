"""Preference summaries and target attributes from rating histories, and the held-out items that belong to them.

A summary comes from the visible part of one user's history. Held-out items determine the target attributes of `heldout`
mode and nothing else; they are listed in a table of their own. Knows nothing of dialogues and models.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl

from crslib import schemas
from crslib.config import ProfileParameters
from crslib.data import catalog, histories
from crslib.dialogue import utterances
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest
from crslib.store import Run
from crslib.users.targets import N_STARS, Target, from_heldout, from_taste, relax

MIN_VISIBLE = 15  # ratings that a summary needs at least

# An affinity is a mean z, shrunk to the user's own mean as if `prior` ratings had been exactly average: the empirical
# Bayes estimate with prior = within-user variance / variance between users, by the method of moments on the visible
# ratings of the built-in data (σ²/τ²: genres and decades 17–30, directors 3.6, cast 7).
PRIORS = {"kind": 20.0, "decade": 20.0, "maker": 4.0, "person": 7.0}


@dataclass(frozen=True)
class ProfileTables:
    """Profiles and the tables that belong to them; each a table of `schemas.TABLES`.

    `training`: the visible ratings of all users. `items`: the catalogue with n_ratings and mean_rating of `training`.
    `holdouts` is for evaluation only.
    """

    profiles: pl.DataFrame
    holdouts: pl.DataFrame
    training: pl.DataFrame
    items: pl.DataFrame

    def write(self, run: Run) -> None:
        """Writes the four tables into the folder of `run`; `training` is its table `ratings`."""
        run.write("profiles", self.profiles)
        run.write("holdouts", self.holdouts)
        run.write("ratings", self.training)
        run.write("items", self.items)


def build(items: pl.DataFrame, ratings: pl.DataFrame, parameters: ProfileParameters) -> ProfileTables:
    """Profiles of `n_profiles` users from tables `items` and `ratings`, sorted by `profile_id`.

    Ratings of items outside the catalogue are left out. A user is eligible with at least 15 visible ratings and at
    least one liked hidden item, in both target modes, so that the modes have the same users; the seed draws among them.
    A profile depends on (data, seed, parameters) and its own user, not on the order of the rows or on the number of
    profiles.

    Raises `CrsError` when fewer users are eligible than asked for, when `min_k` exceeds the catalogue, or when a table
    does not have its schema.
    """
    if parameters.min_k > items.height:
        raise CrsError(f"min_k = {parameters.min_k} exceeds the catalogue's {items.height} items; choose a smaller one")
    items = schemas.check(items, "items").sort("item_id")
    ratings = schemas.check(ratings, "ratings").join(items, on="item_id", how="semi")
    training, hidden = histories.split(ratings, parameters.holdout_share)
    items = schemas.check(catalog.with_training_statistics(items, training), "items")

    scales = histories.scales(training)
    users = _choose(training, histories.standardise(hidden, scales), parameters)
    visible = histories.standardise(training.join(users, on="user_id", how="semi"), scales)
    hidden = histories.standardise(hidden.join(users, on="user_id", how="semi"), scales)
    traits = _traits(items)
    history = visible.join(traits, on="item_id")
    affinities = _affinities(history)
    facts = _facts(history, affinities).join(users, on="user_id")
    names = catalog.item_names(items)
    frequency = Counter(genre for genres in items["kinds"] for genre in genres)

    @cache
    def matching(target: Target) -> int:
        return target.count(items)

    def enough(target: Target) -> bool:
        return matching(target) >= parameters.min_k

    def weight(genre: str) -> float:
        return math.log(items.height / frequency[genre])

    taste = parameters.target_mode == "taste"
    source = affinities if taste else hidden.filter("liked").join(traits, on="item_id").sort("user_id", "item_id")
    evidence = {user: part for (user,), part in source.group_by("user_id", maintain_order=True)}
    rows = []
    for user_facts in facts.iter_rows(named=True):
        rng = random.Random(derive_seed(parameters.seed, "target", user_facts["user_id"]))
        if taste:
            wanted = from_taste(
                evidence.get(user_facts["user_id"], affinities.clear()), user_facts["liked_kinds"], enough, rng
            )
        else:
            wanted = from_heldout(evidence[user_facts["user_id"]], weight, enough, rng)
        target, relaxed = relax(wanted, parameters.min_k, matching)
        rows.append(
            {
                **user_facts,
                "summary": summarise(user_facts, names),
                "attributes": str(target),
                "target_mode": parameters.target_mode,
                "target_kinds": target.kinds,
                "target_decade": target.decade,
                "target_person": target.person,
                "target_maker": target.maker,
                "k_anonymity": matching(target),
                "relaxed": relaxed,
            }
        )
    profiles = pl.DataFrame(rows, schema=dict(schemas.TABLES["profiles"])).sort("profile_id")
    holdouts = hidden.join(users, on="user_id").select(list(schemas.TABLES["holdouts"])).sort("profile_id", "item_id")
    return ProfileTables(
        schemas.check(profiles, "profiles"),
        schemas.check(holdouts, "holdouts"),
        schemas.check(training, "ratings"),
        items,
    )


def _choose(training: pl.DataFrame, hidden: pl.DataFrame, parameters: ProfileParameters) -> pl.DataFrame:
    """`user_id`, `profile_id` of the users drawn, sorted by `user_id`."""
    eligible = (
        training.group_by("user_id")
        .len()
        .filter(pl.col("len") >= MIN_VISIBLE)
        .join(hidden.filter("liked"), on="user_id", how="semi")["user_id"]
        .to_list()
    )
    if len(eligible) < parameters.n_profiles:
        raise CrsError(
            f"n_profiles = {parameters.n_profiles} but only {len(eligible)} users have at least {MIN_VISIBLE} visible "
            f"ratings and a hidden item they liked; choose at most {len(eligible)} or another holdout_share"
        )
    shuffled = sorted(eligible, key=lambda user: (derive_seed(parameters.seed, "profile", user), user))
    drawn = sorted(shuffled[: parameters.n_profiles])
    return pl.DataFrame(
        {"user_id": drawn, "profile_id": [_profile_id(user) for user in drawn]},
        schema={"user_id": pl.String, "profile_id": pl.String},
    )


def _profile_id(user_id: str) -> str:
    """`u` and the user id. A long id, or one with other characters than letters, digits, - and _, is cut and hashed."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", user_id):
        return f"u{user_id}"
    return f"u{re.sub(r'[^A-Za-z0-9_-]+', '-', user_id)[:24]}.{digest(user_id, 'user')}"


# ── taste ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _traits(items: pl.DataFrame) -> pl.DataFrame:
    """What a taste may depend on, by item: `item_id`, `kinds`, `decade`, `makers`, `stars`, `n_ratings`.

    `stars`: up to five of the cast, those whose films have the most training ratings.
    """
    return histories.query(
        """
        WITH persons AS (
            SELECT item_id, n_ratings, unnest(list_distinct(people)) AS person FROM items
        ), famed AS (
            SELECT item_id, person, sum(n_ratings) OVER (PARTITION BY person) AS fame FROM persons
        ), stars AS (
            SELECT item_id, list(person ORDER BY fame DESC, person)[:$n_stars] AS stars FROM famed GROUP BY item_id
        )
        SELECT item_id, list_sort(list_distinct(kinds)) AS kinds, year // 10 * 10 AS decade,
               list_sort(list_distinct(makers)) AS makers, coalesce(stars, []) AS stars, n_ratings
        FROM items LEFT JOIN stars USING (item_id)
        ORDER BY item_id
        """,
        {"items": items},
        {"n_stars": N_STARS},
    )


def _affinities(history: pl.DataFrame) -> pl.DataFrame:
    """How much each user likes what: `user_id`, `trait` (kind, decade, maker, person), `name`, `n` ratings,
    `n_liked` of them, `affinity` = Σz / (n + prior). Sorted by user, trait and name."""
    priors = pl.DataFrame({"trait": list(PRIORS), "prior": list(PRIORS.values())})
    return histories.query(
        """
        WITH traits AS (
            SELECT user_id, item_id, z, liked, 'kind' AS trait, unnest(kinds) AS name FROM history
            UNION ALL
            SELECT user_id, item_id, z, liked, 'decade', decade::VARCHAR FROM history WHERE decade IS NOT NULL
            UNION ALL
            SELECT user_id, item_id, z, liked, 'maker', unnest(makers) FROM history
            UNION ALL
            SELECT user_id, item_id, z, liked, 'person', unnest(stars) FROM history
        )
        SELECT user_id, trait, name, count(*) AS n, count(*) FILTER (liked) AS n_liked,
               round(sum(z ORDER BY item_id) / (count(*) + prior), 9) AS affinity
        FROM traits JOIN priors USING (trait)
        GROUP BY user_id, trait, name, prior
        ORDER BY user_id, trait, name
        """,
        {"history": history, "priors": priors},
    )


def _facts(history: pl.DataFrame, affinities: pl.DataFrame) -> pl.DataFrame:
    """What a summary says, one row per user: the columns `liked_kinds` … `disliked_items` of table `profiles`.

    - liked genres: up to three of positive affinity that make up at least a tenth of the history (and three ratings);
    - disliked genre: at most one, of at least five ratings and an affinity of at most -0.25;
    - decade: of positive affinity and at least half of the liked items;
    - director: at most one, of at least two liked items and an affinity of at least 0.3;
    - loved items: up to three, the highest z; disliked item: at most one, the lowest z if that is at most -1. Among
      equals the item with the most ratings comes first, because a well-known film is the better topic.

    Remaining ties are broken by name.
    """
    return histories.query(
        """
        WITH totals AS (
            SELECT user_id, count(*) AS n_visible, count(*) FILTER (liked) AS n_liked_items,
                   list(item_id ORDER BY round(z, 9) DESC, n_ratings DESC, item_id) FILTER (liked) AS loved,
                   list(item_id ORDER BY round(z, 9), n_ratings DESC, item_id) FILTER (z <= -1) AS disliked
            FROM history GROUP BY user_id
        ), tastes AS (
            SELECT user_id,
                   list(name ORDER BY affinity DESC, name) FILTER (
                       trait = 'kind' AND affinity > 0 AND n >= 3 AND 10 * n >= n_visible) AS liked_kinds,
                   list(name ORDER BY affinity, name) FILTER (
                       trait = 'kind' AND affinity <= -0.25 AND n >= 5) AS disliked_kinds,
                   list(name ORDER BY affinity DESC, name) FILTER (
                       trait = 'decade' AND affinity > 0 AND 2 * n_liked >= n_liked_items) AS decades,
                   list(name ORDER BY affinity DESC, name) FILTER (
                       trait = 'maker' AND affinity >= 0.3 AND n_liked >= 2) AS makers
            FROM affinities JOIN totals USING (user_id) GROUP BY user_id
        )
        SELECT user_id, n_visible,
               coalesce(liked_kinds, [])[:3] AS liked_kinds,
               coalesce(disliked_kinds, [])[:1] AS disliked_kinds,
               decades[1]::INTEGER AS liked_decade,
               coalesce(makers, [])[:1] AS liked_makers,
               coalesce(loved, [])[:3] AS loved_items,
               coalesce(disliked, [])[:1] AS disliked_items
        FROM totals LEFT JOIN tastes USING (user_id)
        ORDER BY user_id
        """,
        {"history": history, "affinities": affinities},
    )


def summarise(facts: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The summary of DESIGN §4 from the facts of one row of table `profiles`; `names`: item id to `Title (Year)`.

    The decade is mentioned only together with genres; the format has no sentence for it alone.
    """
    sentences = []
    if facts["liked_kinds"]:
        decade = f", mostly from the {facts['liked_decade']}s" if facts["liked_decade"] is not None else ""
        sentences.append(f"You enjoy {_enumeration(facts['liked_kinds'])} movies{decade}.")
    if facts["loved_items"]:
        sentences.append(f"You loved {_enumeration([names[item] for item in facts['loved_items']])}.")
    if facts["liked_makers"]:
        sentences.append(f"You like films by {_enumeration(facts['liked_makers'])}.")
    if facts["disliked_items"]:
        sentences.append(f"You did not like {_enumeration([names[item] for item in facts['disliked_items']])}.")
    for genre in facts["disliked_kinds"]:
        sentences.append(f"{genre[:1].upper()}{genre[1:]} is not for you.")
    return utterances.one_line(" ".join(sentences))


def _enumeration(words: Sequence[str]) -> str:
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last
