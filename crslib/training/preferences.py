"""Pairs for preference optimisation: a better and a worse continuation, both by the model itself.

A context is the view of one party before its turn in a human dialogue. The model after SFT continues it a few times,
the rules of `rewards` and optionally a judge score the continuations, and the best and the worst of a context become a
pair where they clearly differ. The two should differ only in what the rules score: both name titles or neither does,
and chosen and rejected continuations have the same mean length.

Knows nothing of how a model is trained on the pairs. The rules see the profile; the recommender's prompt never does.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import polars as pl

from crslib.data import trl
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue
from crslib.dialogue.control_tokens import escaped, unescaped
from crslib.dialogue.domain import Domain, fill
from crslib.dialogue.prompts import LEAVE
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import USER, clean
from crslib.dialogue.views import NOTE_KINDS, Message, Turn, UserKnowledge, UserView
from crslib.engines.base import Engine, Request, complete
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.identity import derive_seed, digest
from crslib.journal import Journal
from crslib.judging.llm import Judge
from crslib.training import examples, rewards
from crslib.training.knowledge import Knowledge

MARGIN = 1.0  # least difference between the totals of a pair; the unit is that of `rewards.WEIGHTS`
JUDGE_WEIGHT = 1.0  # cost of a judge's score of 0, in the same unit
LONGER = 1.5  # largest ratio of the lengths of a pair, in tokens
ALIVE_PER_ROW = 4  # contexts kept in memory per row of an engine
_INSTRUCTION = "You judge conversations about {plural}. Answer with one word: yes or no."
_QUESTION = (
    "Is this reply natural, does it answer what was said last, and does it agree with all that the speaker knows and "
    "has said before?"
)
_ANSWERS = ("yes", "Yes", "no", "No")

CANDIDATES: dict[str, Any] = {
    "context_id": pl.String,
    "draw": pl.Int32,
    "ids": pl.List(pl.Int32),
    "raw": pl.String,
    "finish": pl.String,
}
SCORED: dict[str, Any] = CANDIDATES | {
    "n_items": pl.Int32,
    **dict.fromkeys(rewards.RULES, pl.Float64),
    "judge": pl.Float64,
    "total": pl.Float64,
}
PAIRS: dict[str, Any] = {
    "context_id": pl.String,
    "role": pl.String,
    "prompt": pl.List(pl.Int32),
    "chosen": pl.List(pl.Int32),
    "rejected": pl.List(pl.Int32),
    "chosen_target": pl.List(pl.Boolean),
    "rejected_target": pl.List(pl.Boolean),
    "reasons": pl.List(pl.String),
    "chosen_text": pl.String,
    "rejected_text": pl.String,
}


@dataclass(frozen=True)
class Context:
    """The moment before a turn of `role`.

    `moment`: dialogue and turn, shared by contexts that differ in their notes. `kind`: the kind of the only note (see
    `NOTE_KINDS`), `several`, or empty. `messages`: the view of `role`. `history`: the turns so far (role, text, items,
    notes as in table `turns`). `notes`: what the user knows of the items just named. `profile`: columns `liked_kinds`
    … `disliked_items` of the user, empty for a recommender. `reply`: what the person said then; empty where they
    left, and where the notes are not the person's own.
    """

    context_id: str
    moment: str
    role: str
    kind: str
    messages: tuple[Message, ...]
    history: tuple[Turn, ...]
    notes: tuple[Mapping[str, Any], ...]
    profile: Mapping[str, Any]
    reply: str = ""


# ── contexts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def human_contexts(
    dialogues: Sequence[Dialogue],
    role: str,
    catalog: Catalog,
    without: Collection[str] = (),
    *,
    leaving: bool = False,
) -> list[Context]:
    """One context per turn of `role` (user or recommender) in human dialogues; the seeker's own answers are the notes.

    `catalog`: of the corpus's items, for what the parties know and for links. `without`: parts of the view that are
    left out, of `examples.WITHOUT`. `leaving`: also the moment at which the person left without a word.
    """
    known = Knowledge(catalog.items, dialogues, catalog.domain)
    contexts: list[Context] = []
    for dialogue in dialogues:
        messages = examples.view(dialogue, role, known, without=without).messages
        rows = examples.turn_rows(dialogue, leaving=role if leaving else "")
        for row in rows:
            row["notes"] = [note | {"item_id": catalog.find(note["title"])} for note in row["notes"]]
        profile = known.seekers.facts(dialogue) if role == USER else {}
        contexts += _contexts(dialogue.dialogue_id, role, messages, rows, profile, catalog)
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
    history: list[Turn] = []
    for number, row in enumerate(rows):
        if row["role"] == role:
            moment, own = f"{dialogue_id}:{number:02d}", row["notes"]
            kinds = [NOTE_KINDS.get((note["seen"], note["liked"]), "") for note in own]
            kind = "several" if len(kinds) > 1 else "".join(kinds)
            view = tuple(messages[: number + 1])
            yield Context(moment, moment, role, kind, view, tuple(history), tuple(own), profile, row["text"])
        history.append({name: row[name] for name in ("role", "text", "notes")} | {"items": catalog.link(row["text"])})


def with_forced_notes(contexts: Sequence[Context], domain: Domain) -> list[Context]:
    """User contexts in which the recommender has just named one item for the first time, once with each kind of note.

    Only 3 % of human answers are negative; here all kinds are equally frequent. Items in the user's summary are
    left out.
    """
    forced = []
    for context in contexts:
        before = context.history[-1] if context.history else None
        if context.role != USER or before is None or len(before["items"]) != 1:
            continue
        item = before["items"][0]
        earlier = {other["item_id"] or other["title"] for turn in context.history[:-1] for other in turn["items"]}
        if (item["item_id"] or item["title"]) in earlier or item["title"] in context.messages[0].text:
            continue
        for (seen, liked), kind in NOTE_KINDS.items():
            note = {"item_id": item["item_id"], "title": item["title"], "seen": seen, "liked": liked}
            view = UserView(UserKnowledge(domain, "", ""))
            view.follow(before, [note])
            messages = (*context.messages[:-1], view.messages[-1])
            name = f"{context.moment}:{kind}"
            forced.append(replace(context, context_id=name, kind=kind, messages=messages, notes=(note,), reply=""))
    return forced


def sample(contexts: Sequence[Context], n: Mapping[str, int], seed: int) -> list[Context]:
    """Up to `n[kind]` contexts of each kind, sorted by id; at most one of those that share a moment.

    The choice depends on `seed` and the ids, not on the order of `contexts`.
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
    *,
    told: bool = False,
) -> pl.DataFrame:
    """`n` continuations of each context: the columns of `CANDIDATES`, sorted. `raw` is the model's own text.

    `told`: the model was trained by TRL, and reads a moment as in the files of `trl`; what it says is read as such.

    All draws of a context have the same request key, so that the engine reads its prompt once. Each draw has its own
    seed and does not depend on the number of draws. Contexts in `journal` are not continued again. `progress` counts
    contexts.
    """
    template = ChatTemplate(*engine.chat_template)
    rows = []
    if journal is not None:
        views = [[one.context_id, [[message.role, message.text] for message in one.messages]] for one in contexts]
        key = digest([views, dict(engine.identity), n, seed, *["told"] * told], "candidates")
        journal.keep_only(key)
        rows = [row for record in journal.records for row in record["rows"]]
    done = {row[0] for row in rows}
    left = [context for context in contexts if context.context_id not in done]
    room = ALIVE_PER_ROW * engine.width
    for start in range(0, len(left), room):
        progress(len(contexts) - len(left) + start, len(contexts))
        batch, new_rows = left[start : start + room], []
        read = [_as_in_files(context.messages) if told else context.messages for context in batch]
        prompts = [tuple(template.encode(messages, engine)) for messages in read]
        for number in range(n):
            requests = [
                Request(context.context_id, prompt, derive_seed(seed, "candidate", context.context_id, number))
                for context, prompt in zip(batch, prompts, strict=True)
            ]
            for request, completion in zip(requests, complete(engine, requests), strict=True):
                ids = completion.ids
                said = engine.decode(ids)
                said = unescaped(said.strip().removesuffix(LEAVE).strip()) if told else said
                new_rows.append([request.key, number, list(ids), said, completion.finish])
        for context in batch:
            engine.release(context.context_id)
        if journal is not None:
            journal.append({"key": key, "rows": new_rows})
        rows += new_rows
    progress(len(contexts), len(contexts))
    return pl.DataFrame(rows, schema=CANDIDATES, orient="row").sort("context_id", "draw")


def _as_in_files(messages: Sequence[Message]) -> list[Message]:
    return [Message(one["role"], one["content"]) for one in trl.conversation(messages)]


# ── scores ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_rule_scores(contexts: Sequence[Context], drawn: pl.DataFrame, catalog: Catalog) -> pl.DataFrame:
    """Candidates `drawn` with the number of items they name, the score of every rule (null where it does not apply) and
    the total: the columns of `SCORED`; `judge` is null."""
    by_id = {context.context_id: context for context in contexts}
    kinds = dict(catalog.items.select("item_id", "kinds").iter_rows())
    rows = []
    for row in drawn.iter_rows(named=True):
        context = by_id[row["context_id"]]
        turn = _as_turn(row["raw"], row["finish"], context.role, context.notes, catalog)
        by_rule = rewards.scores(
            turn, context.history, row["raw"], profile=context.profile, kinds=kinds, domain=catalog.domain
        )
        others = {"n_items": len(turn["items"]), "judge": None, "total": rewards.total(by_rule, context.role)}
        rows.append(row | dict.fromkeys(rewards.RULES) | by_rule | others)
    return pl.DataFrame(rows, schema=SCORED)


def _as_turn(raw: str, finish: str, role: str, notes: Sequence[Mapping[str, Any]], catalog: Catalog) -> Turn:
    """The row of table `turns` that a model's text would become."""
    text = clean(raw)
    return {"role": role, "text": text, "items": catalog.link(text), "notes": notes, "finish": finish}


def with_judge_scores(scored: pl.DataFrame, judged: Sequence[float], weight: float = JUDGE_WEIGHT) -> pl.DataFrame:
    """`scored` with a judge's scores, 0 to 1, as column `judge`; each lowers its total by `weight` · (1 − score)."""
    judge = pl.Series("judge", judged, dtype=pl.Float64)
    return scored.with_columns(judge, pl.col("total") - weight * (1 - judge))


def judge_scores(judge: Judge, contexts: Sequence[Context], drawn: pl.DataFrame, domain: Domain) -> list[float]:
    """P(yes) / (P(yes) + P(no)) of every row of candidates `drawn`, in order; one half where the judge has no answer.

    A small model's judgement is worth little: it is an option, never the only criterion.
    """
    by_id = {context.context_id: context for context in contexts}
    scores = []
    for context_id, raw in drawn.select("context_id", "raw").iter_rows():
        answer = judge.ask(judge_question(by_id[context_id], raw, domain), _ANSWERS)
        scores.append(0.5 if answer is None else answer[0] + answer[1])
    return scores


def judge_question(context: Context, raw: str, domain: Domain) -> list[Message]:
    """The question to a judge: everything in the speaker's own view, and the reply."""
    me, other = ("Seeker", "Recommender") if context.role == USER else ("Recommender", "Seeker")
    names = {"system": f"What the {me.lower()} was told", "user": other, "assistant": me}
    lines = [f"{names[message.role]}: {' '.join(message.text.split())}" for message in context.messages]
    text = "\n".join([*lines, "", f"Reply of the {me.lower()}: {clean(raw)}", "", _QUESTION])
    return [Message("system", fill(_INSTRUCTION, plural=domain.plural)), Message("user", text)]


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def select_pairs(
    contexts: Sequence[Context],
    scored: pl.DataFrame,
    engine: Engine,
    *,
    margin: float = MARGIN,
    longer: float = LONGER,
) -> pl.DataFrame:
    """At most one pair per context: the columns of `PAIRS`, sorted by context.

    The chosen candidate scores above 0 in every rule and above one half in `agrees_with_note`; its total is higher by
    at least `margin`. Both name items or neither does, so that pairs teach to name neither more nor fewer, and neither
    has more than `longer` times the tokens of the other. Of several such pairs the one with the largest difference
    counts, then the one of most similar length. Empty turns are left out. Finally, per role, the pairs that differ most
    in length are removed until chosen and rejected continuations have the same mean length. `chosen` and `rejected` end
    with the template's end-of-turn token where the utterance ended. Raises `CrsError` for a template without one.
    """
    template = ChatTemplate(*engine.chat_template)
    end = end_of_turn(template, engine)
    by_context = {str(key): part.to_dicts() for (key,), part in scored.group_by("context_id", maintain_order=True)}
    rows = []
    for context in sorted(contexts, key=lambda one: one.context_id):
        couples = list(permutations([row for row in by_context.get(context.context_id, []) if clean(row["raw"])], 2))
        possible = [
            (better["total"] - worse["total"], -abs(len(better["ids"]) - len(worse["ids"])), -number)
            for number, (better, worse) in enumerate(couples)
            if better["total"] - worse["total"] >= margin and _comparable(better, worse, longer) and _faultless(better)
        ]
        if not possible:
            continue
        better, worse = couples[-max(possible)[2]]
        chosen, rejected = (row["ids"] + [end] * (row["finish"] == "end") for row in (better, worse))
        prompt = template.encode(context.messages, engine)
        reasons = [rule for rule in rewards.WEIGHTS[context.role] if _score(better, rule) > _score(worse, rule)]
        targets = ([True] * len(chosen), [True] * len(rejected))
        texts = (better["raw"], worse["raw"])
        rows.append((context.context_id, context.role, prompt, chosen, rejected, *targets, reasons, *texts))
    return balanced(pl.DataFrame(rows, schema=PAIRS, orient="row"))


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any], longer: float) -> bool:
    """Both name items or neither does, and the lengths are similar."""
    lengths = sorted((len(one["ids"]) + 1, len(other["ids"]) + 1))
    return (one["n_items"] > 0) == (other["n_items"] > 0) and lengths[1] <= longer * lengths[0]


def _faultless(row: Mapping[str, Any]) -> bool:
    """No rule has the score 0, and the reply agrees with a part of its notes at least."""
    agrees = row["agrees_with_note"]
    return all(row[rule] != 0 for rule in rewards.RULES) and (agrees is None or agrees > 0.5)


def _score(row: Mapping[str, Any], rule: str) -> float:
    return 1.0 if row[rule] is None else row[rule]


def balanced(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` without the pairs that make chosen or rejected continuations longer on average, per role. Targets are
    counted."""
    chosen, rejected = (pl.col(f"{side}_target").list.sum().cast(pl.Int64) for side in ("chosen", "rejected"))
    surplus = chosen - rejected
    removed: list[str] = []
    for _, part in frame.with_columns(surplus.alias("surplus")).sort("role").group_by("role", maintain_order=True):
        total = int(part["surplus"].sum())
        sign = 1 if total > 0 else -1
        for context_id, n_longer in (
            part.sort(sign * pl.col("surplus"), "context_id", descending=[True, False])
            .select("context_id", "surplus")
            .iter_rows()
        ):
            if sign * n_longer <= 0 or sign * total <= 0:
                break
            if sign * (total - n_longer) >= 0:
                removed.append(context_id)
                total -= n_longer
    return frame.filter(~pl.col("context_id").is_in(removed)).sort("context_id")


def end_of_turn(template: ChatTemplate, engine: Engine) -> int:
    """The token that ends a party's own turn. Raises `CrsError` for a template without one."""
    question, reply = Message("user", "a"), Message("assistant", "b")
    before = template.encode([question], engine)
    own, whole = engine.encode(reply.text), template.encode([question, reply], engine)
    if whole[: len(before) + len(own)] != [*before, *own] or len(whole) == len(before) + len(own):
        raise CrsError("the model's chat template has no end-of-turn token; train on a GGUF with another template")
    return whole[len(before) + len(own)]


def count(pairs: pl.DataFrame) -> pl.DataFrame:
    """Per role: number of `pairs`, mean tokens of `chosen` and `rejected` (end of turn included), and the number of
    pairs that each rule helped to decide (a column per rule of `rewards.RULES`)."""
    return (
        pairs.group_by("role")
        .agg(
            pl.len().alias("pairs"),
            *(pl.col(side).list.len().mean().alias(side) for side in ("chosen", "rejected")),
            *(pl.col("reasons").list.contains(rule).sum().alias(rule) for rule in rewards.RULES),
        )
        .sort("role")
    )


def messages(contexts: Sequence[Context], pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs in the form that TRL reads: `context_id`; `prompt`, `chosen` and `rejected`, lists of `role` and
    `content` (see `trl.conversation`). A party that leaves without a word says `LEAVE`, because TRL drops an empty
    message."""
    by_id = {context.context_id: context for context in contexts}
    rows = []
    for context_id, chosen, rejected in pairs.select("context_id", "chosen_text", "rejected_text").iter_rows():
        prompt = trl.conversation(by_id[context_id].messages)
        sides = [[{"role": "assistant", "content": escaped(text) or LEAVE}] for text in (chosen, rejected)]
        rows.append((context_id, prompt, *sides))
    return pl.DataFrame(rows, schema=trl.PAIRS, orient="row")
