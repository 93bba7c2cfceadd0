"""Human dialogues as training examples: token ids in the view of a role, and which of them the role wrote.

An example has the tokens that the role's model would be fed in a simulation of the same dialogue: the same views,
template and pieces of text. The role's own words and the tokens that end them are the targets of training. Where the
other party spoke last, an empty turn of the role is added: it leaves without a word.

Knows nothing of models and optimisers.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import polars as pl

from crslib.data.corpora import Dialogue, Turn
from crslib.dialogue.scripts import SCRIPTED, USER_TARGET, ScriptView, TargetKnowledge, TargetUserView, script
from crslib.dialogue.templates import ChatTemplate, Tokenizer
from crslib.dialogue.utterances import RECOMMENDER, USER, mentions
from crslib.dialogue.views import RecommenderView, UserKnowledge, UserView, View
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.training.knowledge import Knowledge, targets

ROLES = (USER, RECOMMENDER, SCRIPTED, USER_TARGET)
CONTEXT, TEXT, TITLE, END = range(4)  # kinds of tokens; a title includes its brackets
KINDS = {TEXT: "text", TITLE: "title", END: "end"}  # kinds of targets
WITHOUT: Mapping[str, tuple[str, ...]] = {
    USER: ("notes", "summary and attributes", "style"),
    USER_TARGET: ("notes", "summary and attributes", "style"),
    RECOMMENDER: ("facts", "style"),
    SCRIPTED: (),
}
"""What an ablation can remove from the view of each role."""
OPTIONAL = ("facts", "style")
"""Those of them that a view has only where the adapter was trained with them."""
SCHEMA: dict[str, Any] = {
    "dialogue_id": pl.String,
    "worker": pl.String,
    "partner": pl.String,
    "tokens": pl.List(pl.Int32),
    "target": pl.List(pl.Boolean),
    "kind": pl.List(pl.UInt8),
}


def lacking(role: str, parts: Collection[str]) -> tuple[str, ...]:
    """What the views of `role` lack for an adapter whose views had the optional `parts`."""
    return tuple(part for part in OPTIONAL if part in WITHOUT[role] and part not in parts)


# ── one dialogue as a role sees it ──────────────────────────────────────────────────────────────────────────────────


def view(dialogue: Dialogue, role: str, known: Knowledge, *, without: Collection[str] = ()) -> View:
    """The whole dialogue in the view of `role` (of `ROLES`), own words as `assistant`.

    `without`: parts of the view that are left out, of `WITHOUT`. The recommender's view depends on utterances, facts
    of items and the recommender's own style alone; a script has no style. Raises `CrsError` for an unknown role.
    """
    if role not in ROLES:
        raise CrsError(f"unknown role {role!r}; known are {', '.join(ROLES)}")
    own_role = USER if role == USER_TARGET else role
    style = None if role == SCRIPTED or "style" in without else known.writers.style(dialogue, own_role)
    if role == RECOMMENDER:
        lookup = None if "facts" in without else known.lookup
        rows = turn_rows(dialogue, notes=False, leaving=RECOMMENDER)
        return RecommenderView.of(rows, known.domain, lookup, style)
    nothing = UserKnowledge(known.domain, "", "")
    user = nothing if "summary and attributes" in without else known.seekers.knowledge(dialogue)
    turns = turn_rows(dialogue, notes="notes" not in without, leaving=USER)
    if role == USER:
        return UserView.of(turns, UserKnowledge(known.domain, user.summary, user.attributes, style))
    names = tuple(_target_names(dialogue))
    with_targets = TargetKnowledge(known.domain, user.summary, user.attributes, style, titles=names)
    if role == USER_TARGET:
        return TargetUserView.of(turns, with_targets)
    whole = ScriptView(with_targets)
    whole.say(script([(turn.role, turn.text) for turn in dialogue.turns]))
    return whole


def turn_rows(dialogue: Dialogue, *, notes: bool = True, leaving: str = "") -> list[dict[str, Any]]:
    """The turns as rows of table `turns` (role, text, ids of the items, notes).

    The notes of a seeker's turn are their answers on the items that the recommender has just named. Targets are among
    them, because they have been named by then. Without `notes` there are none. `leaving`: a role, of which an empty
    turn is added where the other one spoke last.
    """
    rows: list[dict[str, Any]] = []
    named: list[dict[str, Any]] = []
    for turn in dialogue.turns:
        items = [{"item_id": mention.item_id} for mention in turn.mentions]
        rows.append({"role": turn.role, "text": turn.text, "items": items, "notes": named if turn.role == USER else []})
        named = _notes_on(turn, dialogue) if notes and turn.role == RECOMMENDER else []
    if leaving and rows and rows[-1]["role"] != leaving:
        rows.append({"role": leaving, "text": "", "items": [], "notes": named if leaving == USER else []})
    return rows


def _notes_on(turn: Turn, dialogue: Dialogue) -> list[dict[str, Any]]:
    answers = {mention.name: (mention.item_id, dialogue.items[mention.item_id]) for mention in turn.mentions}
    return [
        {"item_id": item_id, "title": name, "seen": item.seen, "liked": item.liked}
        for name, (item_id, item) in answers.items()
        if item.seen is not None or item.liked is not None
    ]


def _target_names(dialogue: Dialogue) -> list[str]:
    return [dialogue.items[item_id].name for item_id in targets(dialogue)]


def _negative(dialogue: Dialogue) -> bool:
    """Whether the recommender names an item that the seeker did not like, or would not."""
    named = {mention.item_id for turn in dialogue.turns if turn.role == RECOMMENDER for mention in turn.mentions}
    return any(dialogue.items[item_id].liked is False for item_id in named)


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode(own_view: View, tokenizer: Tokenizer, template: ChatTemplate) -> tuple[list[int], list[int]]:
    """Token ids of a view up to the end of the party's last own message, and the kind of each.

    The ids equal those of a simulation, where each text is tokenized separately. Raises `CrsError` for a template that
    changes an own message after its turn.
    """
    ids = template.encode(own_view.messages, tokenizer)
    kinds = [CONTEXT] * len(ids)
    stop = 0
    for number, message in enumerate(own_view.messages):
        if message.role != "assistant":
            continue
        prompt, own = template.encode(own_view.messages[:number], tokenizer), tokenizer.encode(message.text)
        start, stop = len(prompt), len(prompt) + len(own)
        if ids[:stop] != [*prompt, *own] or stop == len(ids):
            raise CrsError("the model's chat template rewrites past messages; train on a GGUF with another one")
        kinds[start : stop + 1] = [*kinds_of(message.text, own, tokenizer), END]
        stop += 1
    return ids[:stop], kinds[:stop]


def kinds_of(text: str, ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """TITLE for every token that holds a part of a title, TEXT for the others.

    A token is free of a title if it is also a token of the text before the title alone, or of the text after it alone.
    """
    kinds = [TEXT] * len(ids)
    for _, start, end in mentions(text):
        first = _n_common(tokenizer.encode(text[:start]), ids)
        last = len(ids) - _n_common(tokenizer.encode(text[end:])[::-1], ids[::-1])
        kinds[first:last] = [TITLE] * (last - first)
    return kinds


def _n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def examples(
    dialogues: Sequence[Dialogue],
    role: str,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    known: Knowledge,
    *,
    without: Collection[str] = (),
    negative_weight: int = 1,
    max_tokens: int | None = None,
) -> pl.DataFrame:
    """One row per dialogue in which `role` (of `ROLES`) speaks, in order: the columns of `SCHEMA`.

    `worker` is the person who wrote the targets, `partner` the other one (for a script: the seeker, the recommender).
    `tokens` and `kind` are those of `encode`, `target` marks the targets. A dialogue in which the recommender names an
    item that the seeker does not like comes `negative_weight` times. An example longer than `max_tokens` is cut after
    the last own message that fits.
    """
    caching = SimpleNamespace(encode=cache(tokenizer.encode))  # each text of a view is encoded many times
    rows = []
    for dialogue in dialogues:
        own_view = view(dialogue, role, known, without=without)
        tokens, kinds = _shortened(*encode(own_view, caching, template), max_tokens)
        if not tokens:
            continue
        workers = (dialogue.user, dialogue.recommender)
        worker, partner = workers[::-1] if role == RECOMMENDER else workers
        row = (dialogue.dialogue_id, worker, partner, tokens, [kind != CONTEXT for kind in kinds], kinds)
        rows += [row] * (negative_weight if _negative(dialogue) else 1)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _shortened(tokens: list[int], kinds: list[int], most: int | None) -> tuple[list[int], list[int]]:
    if most is None or len(tokens) <= most:
        return tokens, kinds
    stop = max((place + 1 for place, kind in enumerate(kinds[:most]) if kind == END), default=0)
    return tokens[:stop], kinds[:stop]


# ── training and validation ─────────────────────────────────────────────────────────────────────────────────────────


def split(examples: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Examples for training and, from about `share` of the dialogues, for validation; no worker is on both sides.

    Workers talk with many others, so most dialogues are connected. The validation side starts with a worker drawn by
    `seed` and repeatedly adds the one with the largest share of their dialogues on that side; dialogues across the two
    sides are left out. The order of rows does not matter. Raises `CrsError` when `share` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise CrsError(f"validation share = {share} is not in [0, 1); choose for example 0.05")
    dialogues = examples.unique("dialogue_id").select("worker", "partner")
    group = _group(dialogues.rows(), round(share * len(dialogues)), seed)
    inside = [pl.col(column).is_in(group) for column in ("worker", "partner")]
    return examples.filter(~inside[0] & ~inside[1]), examples.filter(inside[0] & inside[1])


def _group(dialogues: Sequence[tuple[str, str]], wanted: int, seed: int) -> list[str]:
    """Workers with at least `wanted` dialogues among themselves, and few with others."""
    talks: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one, other in dialogues:
        talks[one][other] += 1
        talks[other][one] += 1
    rng = random.Random(derive_seed(seed, "validation"))
    group: list[str] = []
    outside = sorted(talks)
    shared: Counter[str] = Counter()  # dialogues of each worker with those in the group
    inside = 0
    while inside < wanted and outside:
        near = [worker for worker in outside if shared[worker]] or [rng.choice(outside)]
        worker = max(near, key=lambda one: ((shared[one] + 1) / (talks[one].total() + 1), shared[one], one))
        outside.remove(worker)
        group.append(worker)
        inside += shared[worker]
        shared.update(talks[worker])
    return sorted(group)


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def count(examples: pl.DataFrame) -> dict[str, int]:
    """Numbers of `examples`, `dialogues`, `workers` and `tokens`, tokens of the `longest` example, and targets of each
    kind."""
    kinds = Counter(dict(examples["kind"].explode(empty_as_null=False).value_counts().iter_rows()))
    lengths = examples["tokens"].list.len()
    return {
        "examples": len(examples),
        "dialogues": examples["dialogue_id"].n_unique(),
        "workers": examples["worker"].n_unique(),
        "tokens": int(lengths.sum()),
        "longest": max(lengths.to_list(), default=0),
        **{name: kinds[kind] for kind, name in KINDS.items()},
    }
