"""Pairs for preference optimisation, made by the project itself: a model's own continuations, the better and the worse.

A context is the view of one party up to its turn, from a human dialogue (training part only) or a simulated one. The
model of SFT continues it a few times, `rules` judge, and of each context the best and the worst make a pair where they
differ clearly. What both differ in is meant to be what the rules speak of: the two name titles or both do not, and
neither is the longer one, on the whole.

Knows nothing of how a model is trained on the pairs. The rules see the profile; the recommender's prompt never does.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from crslib.data import exports
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue
from crslib.dialogue.reactions import Turn
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import USER, clean
from crslib.dialogue.views import NOTE_KINDS, Message, UserKnowledge, UserView
from crslib.engines.base import Engine, Request, complete
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest
from crslib.store import Journal, Progress, no_progress, writing
from crslib.training import examples, rewards
from crslib.training.knowledge import Seekers

MARGIN = 1.0  # of the totals of a pair; see `rules.WEIGHTS`
JUDGES_WEIGHT = 1.0  # what a judge's doubt costs, beside `rules.WEIGHTS`
LONGER = 1.5  # times as many tokens, at most, of one continuation of a pair as of the other
ALIVE_PER_ROW = 4  # contexts kept in memory per row of an engine

RULES = tuple(dict.fromkeys(rule for weights in rewards.WEIGHTS.values() for rule in weights))
CANDIDATES = {
    "context_id": pl.String,
    "draw": pl.Int32,
    "ids": pl.List(pl.Int32),
    "raw": pl.String,
    "finish": pl.String,
}
JUDGED = CANDIDATES | {
    "n_items": pl.Int32,
    **dict.fromkeys(RULES, pl.Float64),
    "judge": pl.Float64,
    "total": pl.Float64,
}
PAIRS = {
    "context_id": pl.String,
    "role": pl.String,
    "prompt": pl.List(pl.Int32),
    "chosen": pl.List(pl.Int32),
    "rejected": pl.List(pl.Int32),
    "reasons": pl.List(pl.String),
    "chosen_text": pl.String,
    "rejected_text": pl.String,
}
_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@dataclass(frozen=True)
class Context:
    """The moment before a turn of `role`.

    `messages`: its view. `said`: the turns so far (rows role, text, items, notes of table `turns`). `notes`: what the
    user knows of the items just named. `kind`: of the one note there is (`NOTE_KINDS`), `several`, or empty.
    `profile`: columns `liked_genres` … `disliked_items` of the user, empty for a recommender. `moment`: the dialogue
    and turn, which contexts with other notes share.
    """

    context_id: str
    moment: str
    role: str
    kind: str
    messages: tuple[Message, ...]
    said: tuple[Turn, ...]
    notes: tuple[Mapping[str, Any], ...]
    profile: Mapping[str, Any]


# ── contexts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_people(dialogues: Sequence[Dialogue], role: str, catalog: Catalog) -> list[Context]:
    """Every turn of `role` (user or recommender) in human dialogues, with the seeker's own answers as notes.

    `catalog`: of the corpus's items, for the seekers' knowledge and for links.
    """
    seekers = Seekers(catalog.items)
    contexts = []
    for dialogue in dialogues:
        seen = examples.view(dialogue, role, seekers).messages
        rows = examples.turn_rows(dialogue)
        for row in rows:
            row["notes"] = [note | {"item_id": catalog.find(note["title"])} for note in row["notes"]]
        profile = seekers.facts(dialogue) if role == USER else {}
        contexts += _contexts(dialogue.dialogue_id, role, seen, rows, profile, catalog)
    return contexts


def of_run(
    dialogues: pl.DataFrame, turns: pl.DataFrame, profiles: pl.DataFrame, role: str, catalog: Catalog
) -> list[Context]:
    """Every turn of `role` in a run's dialogues (tables `dialogues`, `turns`, `profiles`), in the view it had there.

    The end of a dialogue, where the user left, is no context: its notes were not kept.
    """
    people = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    contexts = []
    for dialogue_id, talk in exports.talks(turns):
        person = people[owner[dialogue_id]] if role == USER else {}
        seen = exports.view(talk, role, person).messages
        contexts += _contexts(dialogue_id, role, seen, talk, person, catalog)
    return contexts


def _contexts(
    dialogue_id: str,
    role: str,
    messages: Sequence[Message],
    rows: Sequence[Mapping[str, Any]],
    profile: Mapping[str, Any],
    catalog: Catalog,
) -> Iterator[Context]:
    """The contexts of one dialogue. `rows`: role, text and notes of table `turns`."""
    said: list[Turn] = []
    for number, row in enumerate(rows):
        if row["role"] == role:
            moment, own = f"{dialogue_id}:{number:02d}", row["notes"]
            known = own[0] if len(own) == 1 else {}
            kind = "several" if len(own) > 1 else NOTE_KINDS.get((known.get("seen"), known.get("liked")), "")
            yield Context(moment, moment, role, kind, tuple(messages[: number + 1]), tuple(said), tuple(own), profile)
        said.append({name: row[name] for name in ("role", "text", "notes")} | {"items": catalog.link(row["text"])})


def forced(contexts: Sequence[Context]) -> list[Context]:
    """User contexts in which the recommender has just named one item for the first time, once with each kind of note.

    People's answers are negative in 3 %; here all kinds are alike. Left out are items that the summary speaks of.
    """
    found = []
    for context in contexts:
        before = context.said[-1] if context.said else None
        if context.role != USER or before is None or len(before["items"]) != 1:
            continue
        item = before["items"][0]
        earlier = {other["item_id"] or other["title"] for turn in context.said[:-1] for other in turn["items"]}
        if (item["item_id"] or item["title"]) in earlier or item["title"] in context.messages[0].text:
            continue
        for (seen, liked), kind in NOTE_KINDS.items():
            note = {"item_id": item["item_id"], "title": item["title"], "seen": seen, "liked": liked}
            view = UserView(UserKnowledge("", ""))
            view.follow(before, [note])
            messages = (*context.messages[:-1], view.messages[-1])
            name = f"{context.moment}:{kind}"
            found.append(replace(context, context_id=name, kind=kind, messages=messages, notes=(note,)))
    return found


def draw(contexts: Sequence[Context], n: Mapping[str, int], seed: int) -> list[Context]:
    """Up to `n[kind]` contexts of each kind, sorted by id; of those that share a moment one at most.

    Which ones depends on seed and ids, not on the order.
    """
    left = Counter(n)
    drawn: dict[str, Context] = {}
    for context in sorted(contexts, key=lambda one: (derive_seed(seed, "context", one.context_id), one.context_id)):
        if left[context.kind] > 0 and context.moment not in drawn:
            left[context.kind] -= 1
            drawn[context.moment] = context
    return sorted(drawn.values(), key=lambda one: one.context_id)


# ── candidates ──────────────────────────────────────────────────────────────────────────────────────────────────────


def candidates(
    contexts: Sequence[Context],
    engine: Engine,
    n: int,
    seed: int,
    journal: Journal | None = None,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """`n` continuations of each context: the columns of `CANDIDATES`, sorted. `raw` is the model's own text.

    The draws of a context share its key, so that its prompt is read once; each has a seed of its own, and a draw is
    the same whatever else is drawn after it. What is in `journal` is not made again; `progress` is told contexts done
    and in all.
    """
    template = ChatTemplate(*engine.chat_template)
    rows = []
    if journal is not None:
        asked = [[one.context_id, [[message.role, message.text] for message in one.messages]] for one in contexts]
        key = digest([asked, dict(engine.identity), n, seed], "candidates")
        journal.keep_only(key)
        rows = [row for record in journal.records for row in record["rows"]]
    done = {row[0] for row in rows}
    left = [context for context in contexts if context.context_id not in done]
    room = ALIVE_PER_ROW * engine.width
    for start in range(0, len(left), room):
        progress(len(contexts) - len(left) + start, len(contexts))
        some, new = left[start : start + room], []
        prompts = [tuple(template.encode(context.messages, engine)) for context in some]
        for number in range(n):
            requests = [
                Request(context.context_id, prompt, derive_seed(seed, "candidate", context.context_id, number))
                for context, prompt in zip(some, prompts, strict=True)
            ]
            for request, made in zip(requests, complete(engine, requests), strict=True):
                new.append([request.key, number, list(made.ids), engine.decode(made.ids), made.finish])
        for context in some:
            engine.release(context.context_id)
        if journal is not None:
            journal.append({"key": key, "rows": new})
        rows += new
    progress(len(contexts), len(contexts))
    return pl.DataFrame(rows, schema=CANDIDATES, orient="row").sort("context_id", "draw")


def judge(contexts: Sequence[Context], made: pl.DataFrame, catalog: Catalog) -> pl.DataFrame:
    """Candidates with the number of items they name, a score of every rule (null: nothing to say) and their total: the
    columns of `JUDGED`, without a judge's opinion."""
    where = {context.context_id: context for context in contexts}
    genres = dict(catalog.items.select("item_id", "genres").iter_rows())
    rows = []
    for row in made.iter_rows(named=True):
        context = where[row["context_id"]]
        turn = as_turn(row["raw"], row["finish"], context.role, context.notes, catalog)
        found = rewards.scores(turn, context.said, row["raw"], profile=context.profile, genres=genres)
        judged = {"n_items": len(turn["items"]), "total": rewards.total(found, context.role)}
        rows.append(row | dict.fromkeys(JUDGED.keys() - row.keys()) | found | judged)
    return pl.DataFrame(rows, schema=JUDGED)


def also(judged: pl.DataFrame, opinions: Sequence[float], weight: float = JUDGES_WEIGHT) -> pl.DataFrame:
    """`judged` with a judge's opinion of every row, 0 to 1, as column `judge`, of which the total takes account."""
    opinion = pl.Series("judge", opinions, dtype=pl.Float64)
    return judged.with_columns(opinion, pl.col("total") - weight * (1 - opinion))


def as_turn(raw: str, finish: str, role: str, notes: Sequence[Mapping[str, Any]], catalog: Catalog) -> Turn:
    """A model's words as the row of table `turns` that they would become."""
    text = clean(raw)
    return {"role": role, "text": text, "items": catalog.link(text), "notes": notes, "finish": finish}


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pairs(
    contexts: Sequence[Context],
    judged: pl.DataFrame,
    engine: Engine,
    *,
    margin: float = MARGIN,
    longer: float = LONGER,
) -> pl.DataFrame:
    """At most one pair of each context: the columns of `PAIRS`, sorted by context.

    The chosen one breaks no rule wholly and answers what its notes know, and its total is higher by `margin`; both name
    items or neither does, so that silence pays as little as talk; neither has over `longer` times the tokens of the
    other. Of several the widest margin, then the most similar length. Empty turns are left out. Last, per role, pairs
    in which the longer kind of side is longest go until chosen and rejected have the same mean length. `chosen` and
    `rejected` end with the template's end of a turn where the utterance ended. Raises `CrsError` for a template without
    one.
    """
    template = ChatTemplate(*engine.chat_template)
    end = _end(template, engine)
    by_context = {str(key): part.to_dicts() for (key,), part in judged.group_by("context_id", maintain_order=True)}
    rows = []
    for context in sorted(contexts, key=lambda one: one.context_id):
        said = [row for row in by_context.get(context.context_id, []) if clean(row["raw"])]
        possible = [
            (better["total"] - worse["total"], -abs(len(better["ids"]) - len(worse["ids"])), -number)
            for number, (better, worse) in enumerate(_both(said))
            if better["total"] - worse["total"] >= margin and _alike(better, worse, longer) and _faultless(better)
        ]
        if not possible:
            continue
        better, worse = _both(said)[-max(possible)[2]]
        chosen, rejected = (row["ids"] + [end] * (row["finish"] == "end") for row in (better, worse))
        prompt = template.encode(context.messages, engine)
        reasons = [rule for rule in rewards.WEIGHTS[context.role] if _score(better, rule) > _score(worse, rule)]
        rows.append((context.context_id, context.role, prompt, chosen, rejected, reasons, better["raw"], worse["raw"]))
    return _balanced(pl.DataFrame(rows, schema=PAIRS, orient="row"))


def _both(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(one, other) for one in rows for other in rows if one is not other]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], longer: float) -> bool:
    lengths = sorted((len(one["ids"]) + 1, len(other["ids"]) + 1))
    return (one["n_items"] > 0) == (other["n_items"] > 0) and lengths[1] <= longer * lengths[0]


def _faultless(row: Mapping[str, Any]) -> bool:
    """Breaks no rule wholly, and does not leave open what its notes know."""
    return all(row[rule] != 0 for rule in RULES) and (row["reaction"] is None or row["reaction"] > 0.5)


def _score(row: Mapping[str, Any], rule: str) -> float:
    return 1.0 if row[rule] is None else row[rule]


def _balanced(frame: pl.DataFrame) -> pl.DataFrame:
    """Without the pairs that make one side longer than the other, role by role."""
    surplus = pl.col("chosen").list.len().cast(pl.Int64) - pl.col("rejected").list.len().cast(pl.Int64)
    out: list[str] = []
    for _, part in frame.with_columns(surplus.alias("surplus")).sort("role").group_by("role", maintain_order=True):
        left = int(part["surplus"].sum())
        side = 1 if left > 0 else -1
        for context_id, more in (
            part.sort(side * pl.col("surplus"), "context_id", descending=[True, False])
            .select("context_id", "surplus")
            .iter_rows()
        ):
            if side * more <= 0 or side * left <= 0:
                break
            if side * (left - more) >= 0:
                out.append(context_id)
                left -= more
    return frame.filter(~pl.col("context_id").is_in(out)).sort("context_id")


def _end(template: ChatTemplate, engine: Engine) -> int:
    """The token that ends a party's own turn."""
    asked, said = Message("user", "a"), Message("assistant", "b")
    before = template.encode([asked], engine)
    own, whole = engine.encode(said.text), template.encode([asked, said], engine)
    if whole[: len(before) + len(own)] != [*before, *own] or len(whole) == len(before) + len(own):
        raise CrsError("the model's chat template has no end of a turn; train on a GGUF with another one")
    return whole[len(before) + len(own)]


def count(made: pl.DataFrame) -> pl.DataFrame:
    """Per role: `pairs`, mean tokens of `chosen` and `rejected` (their ends included), and how many pairs each rule
    decided along with others (a column per rule of `RULES`)."""
    return (
        made.group_by("role")
        .agg(
            pl.len().alias("pairs"),
            *(pl.col(side).list.len().mean().alias(side) for side in ("chosen", "rejected")),
            *(pl.col("reasons").list.contains(rule).sum().alias(rule) for rule in RULES),
        )
        .sort("role")
    )


def messages(contexts: Sequence[Context], made: pl.DataFrame) -> pl.DataFrame:
    """The pairs as TRL reads them: `prompt`, `chosen` and `rejected`, lists of `role` and `content`; `context_id`."""
    where = {context.context_id: context for context in contexts}
    rows = []
    for context_id, chosen, rejected in made.select("context_id", "chosen_text", "rejected_text").iter_rows():
        prompt = [{"role": message.role, "content": message.text} for message in where[context_id].messages]
        sides = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
        rows.append((context_id, prompt, *sides))
    schema = {"context_id": pl.String, "prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES}
    return pl.DataFrame(rows, schema=schema, orient="row")


def write_jsonl(frame: pl.DataFrame, path: Path) -> None:
    """One JSON object per row, as `datasets.load_dataset("json")` reads them. Raises `CrsError` if it cannot write."""
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in frame.iter_rows(named=True):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
