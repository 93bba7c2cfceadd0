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
from crslib.config import ProfileParameters, resolve
from crslib.data import catalog, histories, tables, titles
from crslib.data.source import UNKNOWN, Source
from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain, fill
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest
from crslib.store import Run
from crslib.users.targets import N_LEADING, Target, from_heldout, from_taste, further_trait, relax

MIN_VISIBLE = 15  # ratings that a summary needs at least

# An affinity is a mean z, shrunk to the user's own mean as if `prior` ratings had been exactly average: the empirical
# Bayes estimate with prior = within-user variance / variance between users, by the method of moments on the visible
# ratings of the built-in data (σ²/τ²: kinds and decades 17–30, makers 3.6, people 7). Further attributes are not in
# them and get that of people.
PRIORS = {"kind": 20.0, "decade": 20.0, "maker": 4.0, "person": 7.0}


@dataclass(frozen=True)
class ProfileTables:
    """Profiles and the tables that belong to them; each a table of `schemas.TABLES`.

    `domain`: what they speak of. `training`: the visible ratings of all users. `items`: the catalogue with n_ratings
    and mean_rating of `training`. `holdouts` is for evaluation only. `source`: where items and ratings come from.
    """

    profiles: pl.DataFrame
    holdouts: pl.DataFrame
    training: pl.DataFrame
    items: pl.DataFrame
    domain: Domain
    source: Source = UNKNOWN

    @property
    def visible(self) -> dict[str, Any]:
        """All but `holdouts`: what a simulation is made of, as the arguments of `Population`."""
        return {name: getattr(self, name) for name in ("profiles", "items", "training", "domain", "source")}

    def write(self, run: Run) -> None:
        """Writes the four tables, the domain and `source.json` into the folder of `run`; `training` is its table
        `ratings`."""
        self.domain.write(run.path)
        run.write("profiles", self.profiles)
        run.write("holdouts", self.holdouts)
        run.write("ratings", self.training)
        run.write("items", self.items)
        self.source.write(run.path)


def of_data(parameters: ProfileParameters) -> ProfileTables:
    """`build` of the tables in folder `parameters.data`, with their source, in the words of `parameters.domain`."""
    data = resolve(parameters.data)
    return build(*tables.load(data), parameters, tables.domain_of(data, parameters.domain), Source.read(data))


def build(
    items: pl.DataFrame,
    ratings: pl.DataFrame,
    parameters: ProfileParameters,
    domain: Domain,
    source: Source = UNKNOWN,
) -> ProfileTables:
    """Profiles of `n_profiles` users from tables `items` and `ratings` of `source`, in the words of a domain, sorted by
    `profile_id`.

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
    known = schemas.check(ratings, "ratings")["item_id"].is_in(items["item_id"].implode())
    ratings = ratings if known.all() else ratings.filter(known)  # tens of millions of rows are copied only if need be
    training, hidden = histories.split(ratings, parameters.holdout_share)
    items = schemas.check(catalog.with_training_statistics(items, training), "items")

    scales = histories.scales(training)
    kind = source.feedback.kind
    if kind == "counts":
        training, hidden = histories.rescaled(training, hidden)
    users = _choose(eligible(training, hidden, scales, kind), parameters)
    visible = histories.standardise(training.join(users, on="user_id", how="semi"), scales, kind)
    hidden = histories.standardise(hidden.join(users, on="user_id", how="semi"), scales, kind)
    traits = _traits(items, domain)
    history = visible.join(traits, on="item_id")
    by_trait = _by_trait(traits)
    affinities = _affinities(history, by_trait) if kind == "marks" else _lifts(history, training, by_trait)
    facts = _facts(history, affinities).join(users, on="user_id")
    names = catalog.item_names(items)
    frequency = Counter(kind for kinds in items["kinds"] for kind in kinds)

    @cache
    def matching(target: Target) -> int:
        return target.count(items, domain)

    def enough(target: Target) -> bool:
        return matching(target) >= parameters.min_k

    def weight(kind: str) -> float:
        return math.log(items.height / frequency[kind])

    taste = parameters.target_mode == "taste"
    of_interest = affinities if taste else hidden.filter("liked").join(traits, on="item_id").sort("user_id", "item_id")
    evidence = {user: part for (user,), part in of_interest.group_by("user_id", maintain_order=True)}
    rows = []
    for user_facts in facts.iter_rows(named=True):
        draw = random.Random(derive_seed(parameters.seed, "summary", user_facts["user_id"]))
        [n_loved] = draw.choices(range(4), weights=domain.summary.n_loved)
        user_facts["loved_items"] = user_facts["loved_items"][:n_loved]
        rng = random.Random(derive_seed(parameters.seed, "target", user_facts["user_id"]))
        if taste:
            wanted = from_taste(
                evidence.get(user_facts["user_id"], affinities.clear()), user_facts["liked_kinds"], enough, domain, rng
            )
        else:
            wanted = from_heldout(evidence[user_facts["user_id"]], weight, enough, domain, rng)
        target, relaxed = relax(wanted, parameters.min_k, matching)
        rows.append(
            {
                **user_facts,
                "summary": summarise(user_facts, names, domain),
                "attributes": target.words(domain),
                "target_mode": parameters.target_mode,
                "target_kinds": target.kinds,
                "target_decade": target.decade,
                "target_person": target.person,
                "target_maker": target.maker,
                "target_attributes": [{"name": name, "value": value} for name, value in target.attributes],
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
        domain,
        source,
    )


def eligible(training: pl.DataFrame, hidden: pl.DataFrame, scales: pl.DataFrame, kind: str) -> list[str]:
    """The users with at least `MIN_VISIBLE` visible ratings and a hidden item that they like. `kind`: of `Feedback`."""
    liked = (histories.standardise(part, scales, kind).filter("liked") for part in histories.by_users(hidden))
    liking = pl.concat(part.select("user_id").unique() for part in liked)
    counted = (part.group_by("user_id").len() for part in histories.by_users(training))
    enough = pl.concat(part.filter(pl.col("len") >= MIN_VISIBLE) for part in counted)
    return enough.join(liking, on="user_id", how="semi")["user_id"].to_list()


def _choose(eligible: Sequence[str], parameters: ProfileParameters) -> pl.DataFrame:
    """`user_id`, `profile_id` of the users drawn, sorted by `user_id`."""
    if not eligible:
        raise CrsError(
            f"no user has at least {MIN_VISIBLE} visible ratings and a hidden item they liked; give `data` with more "
            "ratings, or another holdout_share"
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


def _traits(items: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """What a taste may depend on, by item: `item_id`, `kinds`, `decade`, `makers`, `best_known`, `attributes`,
    `n_ratings`.

    `decade`: the time as the domain says it. `best_known`: up to five of the people, those whose items have the most
    training ratings. `attributes`: those that the domain can speak of. Of these and of kinds that are no words of the
    domain (tags) none that is also a title of the catalogue: a wish or summary must not name what may be a hidden item.
    """
    keys = {titles.title_key(title) for title in items["title"]}
    guarded = {kind for kinds in items["kinds"] for kind in kinds if kind not in domain.kinds}
    named = [kind for kind in guarded if titles.title_key(kind) in keys]
    said = [
        [one for one in further if one["name"] in domain.askable and titles.title_key(one["value"]) not in keys]
        for further in items["attributes"]
    ]
    return histories.query(
        """
        WITH persons AS (
            SELECT item_id, n_ratings, unnest(list_distinct(people)) AS person FROM items
        ), famed AS (
            SELECT item_id, person, sum(n_ratings) OVER (PARTITION BY person) AS fame FROM persons
        ), foremost AS (
            SELECT item_id, list(person ORDER BY fame DESC, person)[:$n_leading] AS best_known
            FROM famed GROUP BY item_id
        )
        SELECT item_id, list_sort(list_distinct(kinds)) AS kinds, decade,
               list_sort(list_distinct(makers)) AS makers, coalesce(best_known, []) AS best_known, attributes, n_ratings
        FROM items LEFT JOIN foremost USING (item_id)
        ORDER BY item_id
        """,
        {
            "items": items.with_columns(
                pl.col("kinds").list.set_difference(pl.lit(pl.Series([named], dtype=pl.List(pl.String)))),
                pl.Series("decade", [domain.period(year) for year in items["year"]], dtype=pl.Int32),
                pl.Series("attributes", said, dtype=items.schema["attributes"]),
            )
        },
        {"n_leading": N_LEADING},
    )


def _by_trait(traits: pl.DataFrame) -> pl.DataFrame:
    """What there is to like of each item of `_traits`, a row each: `item_id`, `trait` (kind, decade, maker, person, or
    that of a further attribute), `name`, and `prior`, how strongly an affinity for such a trait is shrunk."""
    further = traits["attributes"].explode().drop_nulls().struct.field("name").unique().sort()
    all_priors = PRIORS | {further_trait(name): PRIORS["person"] for name in further}
    priors = pl.DataFrame({"trait": list(all_priors), "prior": list(all_priors.values())})
    return histories.query(
        """
        WITH named AS (
            SELECT item_id, 'kind' AS trait, unnest(kinds) AS name FROM traits
            UNION ALL
            SELECT item_id, 'decade', decade::VARCHAR FROM traits WHERE decade IS NOT NULL
            UNION ALL
            SELECT item_id, 'maker', unnest(makers) FROM traits
            UNION ALL
            SELECT item_id, 'person', unnest(best_known) FROM traits
            UNION ALL
            SELECT item_id, $further || one.name, one.value FROM (SELECT item_id, unnest(attributes) AS one FROM traits)
        )
        SELECT item_id, trait, name, prior FROM named JOIN priors USING (trait) ORDER BY item_id, trait, name
        """,
        {"traits": traits, "priors": priors},
        {"further": further_trait("")},
    )


def _affinities(history: pl.DataFrame, by_trait: pl.DataFrame) -> pl.DataFrame:
    """How much each user likes what: `user_id`, `trait`, `name` (of `_by_trait`), `n` ratings, `n_liked` of them,
    `affinity` = Σz / (n + prior). Sorted by user, trait and name."""
    return histories.query(
        """
        SELECT user_id, trait, name, count(*) AS n, count(*) FILTER (liked) AS n_liked,
               round(sum(z ORDER BY item_id) / (count(*) + prior), 9) AS affinity
        FROM history JOIN by_trait USING (item_id)
        GROUP BY user_id, trait, name, prior
        ORDER BY user_id, trait, name
        """,
        {"history": history, "by_trait": by_trait},
    )


def _lifts(history: pl.DataFrame, training: pl.DataFrame, by_trait: pl.DataFrame) -> pl.DataFrame:
    """As `_affinities`, for counts and presence, where a user's items themselves say what is liked.

    `affinity` = ln((n + prior) / (e + prior)): n is the weight of the user's items with the trait, e what it would be
    if the user chose as all users do. The ratio of observed to expected, shrunk as by a gamma prior (DuMouchel 1999):
    positive for what a user has more often than others, else 0, because having less of it is no dislike.
    """
    return histories.query(
        """
        WITH items AS (
            SELECT item_id, sum(rating ORDER BY user_id) AS weight FROM training GROUP BY item_id
        ), shares AS (
            SELECT trait, name, sum(weight ORDER BY item_id) / (SELECT sum(weight ORDER BY item_id) FROM items) AS share
            FROM by_trait JOIN items USING (item_id) GROUP BY trait, name
        ), totals AS (
            SELECT user_id, sum(rating ORDER BY item_id) AS weight FROM history GROUP BY user_id
        ), counted AS (
            SELECT user_id, trait, name, prior, count(*) AS n, count(*) FILTER (liked) AS n_liked,
                   sum(rating ORDER BY item_id) AS observed
            FROM history JOIN by_trait USING (item_id) GROUP BY user_id, trait, name, prior
        )
        SELECT user_id, trait, name, n, n_liked,
               round(greatest(ln((observed + prior) / (share * weight + prior)), 0), 9) AS affinity
        FROM counted JOIN shares USING (trait, name) JOIN totals USING (user_id)
        ORDER BY user_id, trait, name
        """,
        {"history": history, "training": training, "by_trait": by_trait},
    )


def _facts(history: pl.DataFrame, affinities: pl.DataFrame) -> pl.DataFrame:
    """What a summary says, one row per user: the columns `liked_kinds` … `disliked_items` of table `profiles`.

    - liked kinds: up to three of positive affinity that make up at least a tenth of the history (and three ratings);
    - disliked kind: at most one, of at least five ratings and an affinity of at most -0.25 (so of marks only);
    - decade: of positive affinity and at least half of the liked items;
    - maker: at most one, of at least two liked items and an affinity of at least 0.3;
    - further attributes: at most two, of at least three liked items and an affinity of at least 0.3;
    - loved items: up to three, the highest z (a summary names the first `n_loved` of its domain); disliked item: at
      most one, the lowest z if that is at most -1. Among equals the item with the most ratings comes first, because a
      well-known item is the better topic.

    Remaining ties are broken by name.
    """
    return histories.query(
        """
        WITH totals AS (
            SELECT user_id, count(*) AS n_visible, count(*) FILTER (liked) AS n_liked_items,
                   list(item_id ORDER BY round(z, 9) DESC, n_ratings DESC, item_id) FILTER (liked) AS loved,
                   list(item_id ORDER BY round(z, 9), n_ratings DESC, item_id) FILTER (z <= $disliked) AS disliked
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
                       trait = 'maker' AND affinity >= 0.3 AND n_liked >= 2) AS makers,
                   list({'name': trait[$skip:], 'value': name} ORDER BY affinity DESC, trait, name) FILTER (
                       starts_with(trait, $further) AND affinity >= 0.3 AND n_liked >= 3) AS further
            FROM affinities JOIN totals USING (user_id) GROUP BY user_id
        )
        SELECT user_id, n_visible,
               coalesce(liked_kinds, [])[:3] AS liked_kinds,
               coalesce(disliked_kinds, [])[:1] AS disliked_kinds,
               decades[1]::INTEGER AS liked_decade,
               coalesce(makers, [])[:1] AS liked_makers,
               coalesce(further, [])[:2] AS liked_attributes,
               coalesce(loved, [])[:3] AS loved_items,
               coalesce(disliked, [])[:1] AS disliked_items
        FROM totals LEFT JOIN tastes USING (user_id)
        ORDER BY user_id
        """,
        {"history": history, "affinities": affinities},
        {"further": further_trait(""), "skip": len(further_trait("")) + 1, "disliked": histories.DISLIKED},
    )


def summarise(facts: Mapping[str, Any], names: Mapping[str, str], domain: Domain) -> str:
    """The summary of DESIGN §4 from the facts of one row of table `profiles`, in the sentences of a domain; `names`:
    item id to `Title (Year)`.

    A decade without kinds is mentioned where the domain has a sentence for it alone.
    """
    said, decade = domain.summary, facts["liked_decade"]
    sentences = []
    if facts["liked_kinds"]:
        time = fill(said.decade, value=str(decade)) if decade is not None else ""
        sentences.append(fill(said.kinds, kinds=_enumeration(facts["liked_kinds"]), decade=time))
    elif decade is not None and said.decade_alone:
        sentences.append(fill(said.decade_alone, value=str(decade)))
    if facts["loved_items"]:
        sentences.append(fill(said.loved, values=_enumeration([names[item] for item in facts["loved_items"]])))
    if facts["liked_makers"]:
        sentences.append(fill(said.makers, values=_enumeration(facts["liked_makers"])))
    for name, sentence in said.attributes.items():
        if values := [one["value"] for one in facts.get("liked_attributes") or () if one["name"] == name]:
            sentences.append(fill(sentence, values=_enumeration(values)))
    if facts["disliked_items"]:
        sentences.append(fill(said.disliked, values=_enumeration([names[item] for item in facts["disliked_items"]])))
    for kind in facts["disliked_kinds"]:
        sentences.append(fill(said.kind_disliked, value=f"{kind[:1].upper()}{kind[1:]}"))
    return utterances.one_line(" ".join(sentences))


def _enumeration(words: Sequence[str]) -> str:
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last
