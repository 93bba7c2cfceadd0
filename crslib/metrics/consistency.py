"""Whether the user is consistent with its profile: reactions with the private notes, preferences with the summary.

Utterances are read by phrase patterns, not by a model. What these cannot decide is left out; `reactions_decidable` is
the share that they can. Knows nothing of held-out items.
"""

from itertools import groupby
from operator import itemgetter

import polars as pl

from crslib import stats
from crslib.dialogue import reactions, utterances
from crslib.dialogue.domain import Domain
from crslib.dialogue.stances import serves_wish, statements, wishes
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import NOTE_KINDS, Wishes
from crslib.metrics.base import Metric, parts_of
from crslib.metrics.facts import Facts

_NOTES = {
    "seen_liked": "met, liked",
    "seen_disliked": "met, disliked",
    "unseen_interested": "not met, interested",
    "unseen_uninterested": "not met, not interested",
}
"""The kinds of notes in words of no domain."""
WISH_TURNS = 3  # the user's turns by which it should have said what it is looking for

METRICS = (
    Metric("reaction_consistency", "consistency", "Reaction agrees with the private note", "share", "higher",
        "Of the items for which both the note and the user's words (read by phrase patterns) state whether it was met "
        "or whether it is liked, the share for which they agree in everything that both state. Human dialogues: the "
        "seeker's words against the answers in the seeker's form.",
        headline="reactions agree with the note", chart=True, claim="is more consistent", needs="notes"),
    Metric("reactions_decidable", "consistency", "Reactions that can be decided", "share", "none",
        "Share of the items with a note on which the user's words state something that the note states too.",
        needs="notes"),
    Metric("later_consistency", "consistency", "What is said of an item later agrees with its earlier note", "share",
        "higher",
        "Of the items that the user names again in a later turn than the one that answered its note, and of which its "
        "words there state whether they were met or are liked, the share for which they agree with that note in "
        "everything that both state.", needs="notes"),
    *(
        Metric(f"consistency_{kind}", "consistency", f"Agrees with the note: {title}", "share", "higher",
            f"Agreement of reaction and note where the note is: {title}.", needs="notes")
        for kind, title in _NOTES.items()
    ),
    Metric("contradictions", "consistency", "Preferences that contradict the summary", "share", "lower",
        "Of the user's clauses that state like, dislike or not met of a kind or item in the summary, the share that "
        "states the opposite of it.",
        chart=True, claim="is more consistent", needs="profiles"),
    Metric("attribute_coverage", "consistency", "Target attributes the user says", "share", "none",
        "Mean over dialogues of the share of target attributes that the user says in words (kind, decade, name).",
        needs="profiles"),
    Metric("wishes_said", "consistency", f"Target attributes the user has said by its turn {WISH_TURNS}", "share",
        "higher",
        "Mean over dialogues of the share of target attributes that the user says in words (kind, decade, name) in "
        f"its first {WISH_TURNS} turns; a dialogue that ends earlier counts with what was said.",
        chart=True, needs="profiles"),
    Metric("own_items_fit", "consistency", "Items the user names first that go with its wish", "share", "human",
        "Of the items that the user names before the recommender does, the share that has a kind, the decade, the "
        "person or the maker of the target attributes. Profiles without target attributes and items without kinds are "
        "left out. Human: the wish is what the seeker asks for before the recommender names an item.",
        needs="profiles"),
)  # fmt: skip


# ── reactions ───────────────────────────────────────────────────────────────────────────────────────────────────


def against_notes(facts: Facts) -> pl.DataFrame:
    """Reactions (`FRAMES`) to items with a note, with `kind` (of `NOTE_KINDS`), `decidable` and `consistent`.

    Decidable: note and words both state whether the item was met, or whether it is liked. Consistent: they agree in
    everything that both state; null where not decidable.
    """
    seen, liked = pl.col("note_seen") == pl.col("says_seen"), pl.col("note_liked") == pl.col("says_liked")
    decidable = seen.is_not_null() | liked.is_not_null()
    return facts.reactions.filter(pl.col("note_seen").is_not_null() | pl.col("note_liked").is_not_null()).with_columns(
        _kind().alias("kind"),
        decidable.alias("decidable"),
        pl.when(decidable).then(seen.fill_null(True) & liked.fill_null(True)).alias("consistent"),
    )


def reaction_parts(facts: Facts) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of the consistency of reactions, over all notes and per kind of note."""
    rows = against_notes(facts)
    decided = rows.drop_nulls("consistent")
    frames = [
        rows.select("dialogue_id", pl.lit("reactions_decidable").alias("metric"), pl.col("decidable").alias("value")),
        decided.select(
            "dialogue_id", pl.lit("reaction_consistency").alias("metric"), pl.col("consistent").alias("value")
        ),
        decided.drop_nulls("kind").select(
            "dialogue_id",
            pl.concat_str(pl.lit("consistency_"), "kind").alias("metric"),
            pl.col("consistent").alias("value"),
        ),
    ]
    return parts_of(pl.concat(frames))


def later_parts(turns: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of `later_consistency`, from table `turns`."""
    rows: list[tuple[str, str, bool]] = []
    columns = turns.sort("dialogue_id", "turn").select("dialogue_id", "role", "text", "items", "notes")
    for dialogue_id, of_dialogue in groupby(columns.iter_rows(named=True), key=itemgetter("dialogue_id")):
        talk = list(of_dialogue)
        for number, turn in enumerate(talk):
            if turn["role"] == USER:
                agreed = [reply.agrees for reply in reactions.later(turn, talk[:number], domain)]
                rows += [(dialogue_id, "later_consistency", agrees) for agrees in agreed if agrees is not None]
    schema = {"dialogue_id": pl.String, "metric": pl.String, "value": pl.Boolean}
    return parts_of(pl.DataFrame(rows, schema=schema, orient="row"))


def reaction_table(facts: Facts, human: Facts) -> pl.DataFrame:
    """What users say after each kind of note, for a chart: (source, kind, question, answer, count, share).

    `source` is simulated or human, `question` is seen or liked, `answer` yes, no or not said; shares add to 1 per
    source, kind and question.
    """
    frames = []
    for source, side in (("simulated", facts), ("human", human)):
        rows = against_notes(side).drop_nulls("kind").select("kind", seen="says_seen", liked="says_liked")
        answers = rows.unpivot(index="kind", variable_name="question", value_name="says").with_columns(
            pl.when("says")
            .then(pl.lit("yes"))
            .when(~pl.col("says"))  # null is neither yes nor no
            .then(pl.lit("no"))
            .otherwise(pl.lit("not said"))
            .alias("answer")
        )
        frames.append(
            answers.group_by("kind", "question", "answer")
            .agg(pl.len().alias("count"))
            .select(pl.lit(source).alias("source"), "kind", "question", "answer", "count")
        )
    table = pl.concat(frames)
    return table.with_columns(
        (pl.col("count") / pl.col("count").sum().over("source", "kind", "question")).alias("share")
    ).sort("source", "kind", "question", "answer")


def _kind() -> pl.Expr:
    kind = pl.lit(None, dtype=pl.String)
    for (seen, liked), name in NOTE_KINDS.items():
        here = (pl.col("note_seen") == seen) & (pl.col("note_liked") == liked)
        kind = pl.when(here).then(pl.lit(name)).otherwise(kind)
    return kind


# ── preferences and target attributes ────────────────────────────────────────────────────────────────────────────


def profile_parts(
    turns: pl.DataFrame, dialogues: pl.DataFrame, profiles: pl.DataFrame, items: pl.DataFrame, domain: Domain
) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of contradictions of the summary, of attributes said and of `own_items`,
    from what users say (table `turns`)."""
    stated = preferences(turns, dialogues, profiles, items, domain)
    contradicted = stated.select(
        "dialogue_id", pl.lit("contradictions").alias("metric"), pl.col("contradicts").alias("value")
    )
    said = attributes_said(turns, dialogues, profiles, domain)
    by_then = {
        "attribute_coverage": pl.col("n_turn").is_not_null(),
        "wishes_said": (pl.col("n_turn") <= WISH_TURNS).fill_null(False),
    }
    attributes = pl.concat(
        said.select("dialogue_id", pl.lit(name).alias("metric"), value.alias("value"))
        for name, value in by_then.items()
    )
    covered = parts_of(attributes).with_columns(pl.col("part") / pl.col("whole"), pl.lit(1.0).alias("whole"))
    return pl.concat([parts_of(contradicted), covered, own_items_parts(turns, dialogues, profiles, items, domain)])


def own_items_parts(
    turns: pl.DataFrame, dialogues: pl.DataFrame, profiles: pl.DataFrame, items: pl.DataFrame, domain: Domain
) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of `own_items_fit`."""
    own = own_items(turns, dialogues, profiles, items, domain)
    return parts_of(own.select("dialogue_id", pl.lit("own_items_fit").alias("metric"), pl.col("fits").alias("value")))


def own_items(
    turns: pl.DataFrame, dialogues: pl.DataFrame, profiles: pl.DataFrame, items: pl.DataFrame, domain: Domain
) -> pl.DataFrame:
    """The items that the user names first: (dialogue_id, turn, item_id, fits).

    `fits`: the item has a kind, the time, the person, the maker or a further attribute of the target attributes.
    Without target attributes, or where nothing decides it (`stances.serves_wish`), there is no row.
    """
    known = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    facts = {row["item_id"]: row for row in items.iter_rows(named=True)}
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    named = (
        turns.filter(pl.col("text").str.strip_chars() != "")
        .sort("dialogue_id", "turn")
        .explode("items")
        .select("dialogue_id", "turn", "role", pl.col("items").struct.field("item_id"))
        .drop_nulls("item_id")
        .unique(["dialogue_id", "item_id"], keep="first", maintain_order=True)
        .filter(role=USER)
    )
    rows = []
    for dialogue_id, turn, _, item_id in named.iter_rows():
        profile = known.get(owner.get(dialogue_id, ""))
        if profile is not None and item_id in facts:
            fits = serves_wish(facts[item_id], Wishes.of(profile), domain)
            if fits is not None:
                rows.append((dialogue_id, turn, item_id, fits))
    schema = {"dialogue_id": pl.String, "turn": pl.Int32, "item_id": pl.String, "fits": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def preferences(
    turns: pl.DataFrame, dialogues: pl.DataFrame, profiles: pl.DataFrame, items: pl.DataFrame, domain: Domain
) -> pl.DataFrame:
    """What users say about kinds and items of their summary: (dialogue_id, turn, about, says, contradicts).

    A row is a clause that states that the user likes, dislikes or has not met something. It is about a kind that the
    profile likes or dislikes, or about a linked item that the profile loved or did not like (`dialogue.stances`).
    """
    titles = dict(items.select("item_id", "title").iter_rows())
    known = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    rows = []
    for turn in turns.filter(pl.col("role") == USER).sort("dialogue_id", "turn").iter_rows(named=True):
        profile = known.get(owner.get(turn["dialogue_id"], ""))
        if profile is not None:
            for about, says, contradicts in statements(turn, profile, titles, domain):
                rows.append((turn["dialogue_id"], turn["turn"], about, says, contradicts))
    schema = {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "about": pl.String,
        "says": pl.String,
        "contradicts": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def attributes_said(
    turns: pl.DataFrame, dialogues: pl.DataFrame, profiles: pl.DataFrame, domain: Domain
) -> pl.DataFrame:
    """Each target attribute of each dialogue: (dialogue_id, attribute, n_turn).

    `n_turn`: the user's first turn (from 1) in which it is said, null if never. Titles do not count as saying it.
    """
    known = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    talk: dict[str, list[str]] = {}
    for dialogue_id, text in (
        turns.filter(pl.col("role") == USER).sort("dialogue_id", "turn").select("dialogue_id", "text").iter_rows()
    ):
        talk.setdefault(dialogue_id, []).append(utterances.replace_mentions(text, " , "))
    rows = []
    for dialogue_id, profile_id in dialogues.select("dialogue_id", "profile_id").sort("dialogue_id").iter_rows():
        for attribute, says in wishes(known.get(profile_id, {}), domain):
            n_turns = [n for n, text in enumerate(talk.get(dialogue_id, ()), start=1) if says(text)]
            rows.append((dialogue_id, attribute, n_turns[0] if n_turns else None))
    return pl.DataFrame(
        rows, schema={"dialogue_id": pl.String, "attribute": pl.String, "n_turn": pl.Int32}, orient="row"
    )


def coverage_by_turn(
    turns: pl.DataFrame, dialogues: pl.DataFrame, profiles: pl.DataFrame, domain: Domain, *, times: int, seed: int
) -> pl.DataFrame:
    """Share of a dialogue's target attributes that the user has said by their n-th turn: (n_turn, value, low, high)."""
    attributes = attributes_said(turns, dialogues, profiles, domain)
    n_turns = turns.filter(pl.col("role") == USER).group_by("dialogue_id").len().select(pl.col("len").max()).item()
    rows = []
    for n_turn in range(1, (n_turns or 0) + 1) if len(attributes) else ():
        reached = (pl.col("n_turn") <= n_turn).fill_null(False)
        share = attributes.group_by("dialogue_id").agg(reached.mean().alias("share"))
        values = share.sort("dialogue_id")["share"].to_numpy()
        estimate = stats.mean(values, times=times, seed=seed)
        assert estimate is not None
        rows.append((n_turn, estimate.value, estimate.low, estimate.high))
    schema = {"n_turn": pl.Int64, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
