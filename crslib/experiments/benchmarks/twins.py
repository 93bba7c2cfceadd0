"""Counterfactual twins: what one change of a profile does to its dialogue, compared with a placebo.

Each profile talks three times with the same recommender. Factual: as it is. Twin: with another target kind or another
loved item, and the same seeds. Placebo: unchanged, with another seed, which shows how much dialogues differ anyway. If
the simulation can be controlled, the twin's dialogue differs from the placebo's in what was changed, and is otherwise
more similar to the factual one. Knows nothing of held-out items.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rapidfuzz.distance import Indel

from crslib import schemas, stats
from crslib.agents.base import Agent
from crslib.config import ProfileParameters, SimulationParameters
from crslib.data import histories
from crslib.data.catalog import item_names
from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain
from crslib.dialogue.lexicon import kinds_of, tokens
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import Wishes
from crslib.dialogue.words import words
from crslib.files import Progress, no_progress
from crslib.identity import derive_seed
from crslib.metrics.consistency import attributes_said
from crslib.metrics.facts import facts
from crslib.metrics.recommendation import recommended
from crslib.reporting import text
from crslib.simulation.loop import simulate
from crslib.simulation.opening import open_agents
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users import targets
from crslib.users.profiles import of_data, summarise

KIND, ITEM = "kind", "item"
FACTUAL, TWIN, PLACEBO = "factual", "twin", "placebo"
N_KNOWN = 5  # a twin's item is drawn from this many candidates, the best-known ones

Talk = tuple[pl.DataFrame, pl.DataFrame]
"""Tables `dialogues` and `turns`."""

CHANGES: schemas.Schema = {
    "profile_id": pl.String,
    "old": pl.String,
    "new": pl.String,
    "old_kinds": pl.List(pl.String),
    "new_kinds": pl.List(pl.String),
}
CHANGED: Mapping[str, str] = {
    "says_new": "the user names the new {kind}",
    "says_old": "the user names the old {kind}",
    "recommends_new": "recommended {items} of {whose} new {kind}",
    "recommends_old": "recommended {items} of {whose} old {kind}",
}
ALIKE: Mapping[str, str] = {
    "words_alike": "words in common with the factual dialogue",
    "items_alike": "recommended {items} in common",
    "turns_before_parting": "turns until they part",
    "turns_apart": "turns more or fewer",
    "words_apart": "words more or fewer",
}
SCHEMA: schemas.Schema = {
    "kind": pl.String,
    "measure": pl.String,
    **dict.fromkeys((FACTUAL, TWIN, PLACEBO, "effect", "low", "high", "p"), pl.Float64),
    "n": pl.Int64,
}


@dataclass(frozen=True)
class Twins:
    """`profiles`: a table of that name, of twins that differ from the profiles with the same ids in one thing.

    `changes`: the columns of `CHANGES`. `old` and `new` are kinds or item ids, the other columns their kinds.
    """

    profiles: pl.DataFrame
    changes: pl.DataFrame


# ── profiles of twins ────────────────────────────────────────────────────────────────────────────────────────────────


def other_kind(profiles: pl.DataFrame, items: pl.DataFrame, domain: Domain, min_k: int, seed: int) -> Twins:
    """Twins that look for another kind in place of their first target kind.

    The new kind is one that some profile looks for. It is not in the twin's own summary, and at least `min_k` of
    `items` match all attributes with it. A profile without a target kind, or for which no kind remains, has no twin.
    The summary stays as it is, so a user may still name the old kind for a good reason.
    """
    wished = sorted({kind for kinds in profiles["target_kinds"] for kind in kinds})
    rows, changes = [], []
    for row in profiles.sort("profile_id").iter_rows(named=True):
        own = {kind for name in ("target_kinds", "liked_kinds", "disliked_kinds") for kind in row[name]}
        others = [kind for kind in wished if kind not in own]
        random.Random(derive_seed(seed, "twin", KIND, row["profile_id"])).shuffle(others)
        for new in others if row["target_kinds"] else ():
            old, *rest = row["target_kinds"]
            wishes = Wishes.of(row)
            target = targets.Target((new, *rest), wishes.decade, wishes.person, wishes.maker, wishes.attributes)
            if (k := target.count(items, domain)) >= min_k:
                rows.append({**row, "target_kinds": [new, *rest], "attributes": target.words(domain), "k_anonymity": k})
                changes.append((row["profile_id"], old, new, [old], [new]))
                break
    return _twins(rows, changes)


def other_item(profiles: pl.DataFrame, training: pl.DataFrame, items: pl.DataFrame, domain: Domain, seed: int) -> Twins:
    """Twins whose summary names another item in place of the first one that they loved.

    The new item is one of the best-known that the same user liked (`training`: visible ratings) and that share no kind
    with the old one. So the private notes, which stay as they are, are true of both. Without such an item, and for a
    summary that names none, there is no twin.
    """
    names = item_names(items)
    kinds = dict(items.select("item_id", "kinds").iter_rows())
    history = training.join(profiles, on="user_id", how="semi")
    history = histories.standardise(history, histories.scales(history)).filter("liked")
    best_known = history.join(items, on="item_id").sort("n_ratings", "item_id", descending=[True, False])
    liked = {user: part["item_id"].to_list() for (user,), part in best_known.group_by("user_id", maintain_order=True)}
    rows, changes = [], []
    for row in profiles.sort("profile_id").iter_rows(named=True):
        if not row["loved_items"]:
            continue
        old, *rest = row["loved_items"]
        possible = [
            item
            for item in liked.get(row["user_id"], ())
            if item not in row["loved_items"] and kinds[item] and not set(kinds[item]) & set(kinds[old])
        ]
        if possible:
            rng = random.Random(derive_seed(seed, "twin", ITEM, row["profile_id"]))
            new = rng.choice(possible[:N_KNOWN])
            twin = {**row, "loved_items": [new, *rest]}
            rows.append({**twin, "summary": summarise(twin, names, domain)})
            changes.append((row["profile_id"], old, new, kinds[old], kinds[new]))
    return _twins(rows, changes)


def _twins(rows: list[dict[str, Any]], changes: list[tuple[Any, ...]]) -> Twins:
    frame = pl.DataFrame(rows, schema=dict(schemas.TABLES["profiles"]))
    return Twins(frame, pl.DataFrame(changes, schema=dict(CHANGES), orient="row"))


# ── dialogues of twins ───────────────────────────────────────────────────────────────────────────────────────────────


def talks(
    population: Population,
    twins: Mapping[str, Twins],
    user: Agent,
    recommender: Agent,
    parameters: SimulationParameters,
    folder: Path,
    progress: Progress = no_progress,
) -> dict[str, Talk]:
    """The dialogues of `population` (`FACTUAL`), with the next seed (`PLACEBO`), and of the twins by their kind.

    Dialogue ids, and so the seeds of every turn, are the same except for the placebo. Each kind has a folder of its
    name below `folder`; a call that was killed continues there. Raises `CrsError` as `simulate` does.
    """
    again = parameters.model_copy(update={"seed": parameters.seed + 1})
    cast = {FACTUAL: (population, parameters), PLACEBO: (population, again)}
    cast |= {kind: (population.with_profiles(of.profiles), parameters) for kind, of in twins.items()}
    total, before, talk = sum(len(who.profiles) for who, _ in cast.values()) * parameters.dialogues_per_profile, 0, {}
    for name, (who, how) in cast.items():

        def report(done: int, _: int, before: int = before) -> None:
            progress(before + done, total)

        run = Run(folder / name)
        run.update(run_id=name)
        with run.journal() as journal:
            dialogues = simulate(who, user, recommender, how, journal, report)
        run.write("profiles", who.profiles)
        dialogues.write(run)
        talk[name] = dialogues.dialogues, dialogues.turns
        before += len(dialogues.dialogues)
    return talk


# ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────


def measure(
    parameters: SimulationParameters,
    n: int,
    folder: Path,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """`effects` of both changes for `n` profiles of the built-in data; `p` corrected for all rows (Holm).

    The dialogues are stored in `folder`. Raises `CrsError` as `simulate` does.
    """
    chosen = ProfileParameters(n_profiles=n, seed=parameters.seed)
    built = of_data(chosen)
    twins = {
        KIND: other_kind(built.profiles, built.items, built.domain, chosen.min_k, chosen.seed),
        ITEM: other_item(built.profiles, built.training, built.items, built.domain, chosen.seed),
    }
    population = Population(**built.visible)
    with open_agents(parameters, population) as (user, recommender):
        by_kind = talks(population, twins, user, recommender, parameters, folder, progress)
    table = pl.concat(
        effects(kind, of.changes, by_kind[FACTUAL], by_kind[kind], by_kind[PLACEBO], built.items, built.domain)
        for kind, of in twins.items()
    )
    tested = table["p"].is_not_null().arg_true()
    return table.with_columns(table["p"].scatter(tested, stats.holm(table["p"].drop_nulls().to_numpy())))


def effects(
    kind: str,
    changes: pl.DataFrame,
    factual: Talk,
    twin: Talk,
    placebo: Talk,
    items: pl.DataFrame,
    domain: Domain,
    *,
    times: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """The columns of `SCHEMA`, a row per measure of `CHANGED` and `ALIKE`: unweighted means over the twins' dialogues,
    and as `effect` the twin's mean minus the placebo's, paired by dialogue id.

    With a 95 % bootstrap interval and the `p` of a sign-flip test. `n` counts the pairs in which both are defined.
    `factual` is null for `ALIKE`, whose measures compare with the factual dialogue. No rows without `changes`.
    """
    if changes.is_empty():
        return pl.DataFrame(schema=dict(SCHEMA))
    named = {FACTUAL: factual, TWIN: twin, PLACEBO: placebo}
    values = [
        frame.with_columns(pl.lit(name).alias("whose"))
        for name, talk in named.items()
        for frame in (
            changed(kind, changes, talk, items, domain),
            *([] if name == FACTUAL else [alike(factual, talk, domain)]),
        )
    ]
    wide = pl.concat(values).pivot("whose", index=["measure", "dialogue_id"], values="value", sort_columns=False)
    rows = []
    for name in (*CHANGED, *ALIKE):
        pairs = wide.filter(measure=name).drop_nulls([TWIN, PLACEBO]).sort("dialogue_id")
        a, b = pairs[TWIN].to_numpy(), pairs[PLACEBO].to_numpy()
        effect = stats.paired_difference(a, b, times=times, seed=seed)
        if effect is not None:
            p = float(stats.sign_flips(a - b, times=10 * times, seed=seed)) if effect.n > 1 else None
            means = (pairs[whose].mean() for whose in named)
            rows.append((kind, name, *means, effect.value, effect.low, effect.high, p, effect.n))
    return pl.DataFrame(rows, schema=dict(SCHEMA), orient="row")


def changed(kind: str, changes: pl.DataFrame, talk: Talk, items: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """The measures of `CHANGED`, a row per dialogue of a profile in `changes`: (dialogue_id, measure, value).

    `says_…`: 1 if the user says the kind in any of its words (titles do not count), or names the item. `recommends_…`:
    share of the recommended catalogue items with the kind, or for an item with any of its kinds; null where none is
    recommended.
    """
    dialogues, turns = talk
    about = dialogues.select("dialogue_id", "profile_id").join(changes, on="profile_id").sort("dialogue_id")
    counted = facts(dialogues, turns, domain)
    if kind == KIND:
        wanted = changes.select("profile_id", pl.concat_list("old", "new").alias("target_kinds"))
        said = (
            attributes_said(turns, dialogues, wanted, domain)
            .drop_nulls("n_turn")
            .select("dialogue_id", name="attribute")
        )
    else:
        said = counted.mentions.filter(role=USER).select("dialogue_id", name="item")
    named = recommended(counted).join(items.select("kinds", item="item_id"), on="item")
    frames = []
    for which in ("new", "old"):
        names = about.join(said, left_on=["dialogue_id", which], right_on=["dialogue_id", "name"], how="semi")
        frames.append(
            about.select(
                "dialogue_id",
                pl.lit(f"says_{which}").alias("measure"),
                pl.col("dialogue_id").is_in(names["dialogue_id"].to_list()).cast(pl.Float64).alias("value"),
            )
        )
        fits = named.join(about, on="dialogue_id").select(
            "dialogue_id", fits=pl.col("kinds").list.set_intersection(f"{which}_kinds").list.len() > 0
        )
        share = fits.group_by("dialogue_id").agg(pl.col("fits").mean().alias("value"))
        frames.append(
            about.select("dialogue_id", pl.lit(f"recommends_{which}").alias("measure")).join(
                share, on="dialogue_id", how="left", maintain_order="left"
            )
        )
    return pl.concat(frames)


def alike(factual: Talk, other: Talk, domain: Domain) -> pl.DataFrame:
    """The measures of `ALIKE` for the dialogues that are in both: (dialogue_id, measure, value).

    `words_alike`: twice the longest common subsequence over the words of both, from 0 to 1, without titles and words
    for kinds, since those were changed. `items_alike`: recommended items in both over those in either (Jaccard), null
    without any. `turns_before_parting`: turns until the first that differs in any character.
    """
    mine, theirs = _texts(factual), _texts(other)
    items, others = _items(factual, domain), _items(other, domain)
    rows: list[tuple[str, str, float | None]] = []
    for name in sorted(mine.keys() & theirs.keys()):
        a, b = mine[name], theirs[name]
        both, either = items[name] & others[name], items[name] | others[name]
        same = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        rows += [
            (name, "words_alike", Indel.normalized_similarity(_words(a, domain), _words(b, domain))),
            (name, "items_alike", len(both) / len(either) if either else None),
            (name, "turns_before_parting", float(same)),
            (name, "turns_apart", float(abs(len(a) - len(b)))),
            (name, "words_apart", float(abs(len(words(" ".join(a))) - len(words(" ".join(b)))))),
        ]
    return pl.DataFrame(rows, {"dialogue_id": pl.String, "measure": pl.String, "value": pl.Float64}, orient="row")


def _texts(talk: Talk) -> dict[str, list[str]]:
    dialogues, turns = talk
    said = {name: part["text"].to_list() for (name,), part in turns.sort("dialogue_id", "turn").group_by("dialogue_id")}
    return {name: said.get(name, []) for name in dialogues["dialogue_id"]}


def _words(texts: list[str], domain: Domain) -> list[str]:
    kinds = kinds_of(domain)
    return [word for text in texts for word in tokens(utterances.replace_mentions(text, " ")) if word not in kinds]


def _items(talk: Talk, domain: Domain) -> dict[str, set[str]]:
    items: dict[str, set[str]] = {name: set() for name in talk[0]["dialogue_id"]}
    for name, item in recommended(facts(*talk, domain)).select("dialogue_id", "item").iter_rows():
        items[name].add(item)
    return items


def formatted(effects: pl.DataFrame, domain: Domain) -> str:
    """The result of `measure` as a Markdown table, in the words of a domain."""
    columns = ("changed", "what", "factual", "twin", "placebo", "twin minus placebo", "p", "pairs")
    labels = {KIND: domain.kind_label, ITEM: domain.label}
    cells = []
    for row in effects.iter_rows(named=True):
        form = ".0%" if row["measure"] in CHANGED else ".2f"
        whose = "the" if row["kind"] == KIND else f"a {domain.kind_label} of the"
        name = {**CHANGED, **ALIKE}[row["measure"]].format(kind=labels[row["kind"]], whose=whose, items=domain.labels)
        means = ("" if row[who] is None else f"{row[who]:{form}}" for who in (FACTUAL, TWIN, PLACEBO))
        effect = text.estimate(row["effect"], row["low"], row["high"], form=f"+{form}")
        p = "" if row["p"] is None else f"{row['p']:.3f}"
        cells.append((labels[row["kind"]], name, *means, effect, p, row["n"]))
    return text.markdown(columns, cells)
