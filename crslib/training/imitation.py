"""Pairs of what a person said, chosen, and what the model would have said there, rejected: self-play fine-tuning (SPIN:
Chen et al. 2024, arXiv 2401.01335).

A moment in a human dialogue is continued by the model as in a simulation. What both say is compared by words alone:
titles are not targets, and lengths are similar. A discriminator that was fitted on other dialogues decides which pairs
teach something (D2PO: Singhal et al. 2024, arXiv 2405.01511): only a reply that it takes for the model's is rejected.
Where only one of them leaves the talk, that decision is the pair.

Knows nothing of how a model is trained on the pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from crslib.dialogue.discriminator import Discriminator
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import USER, clean
from crslib.engines.base import Engine, Sampling
from crslib.identity import derive_seed
from crslib.training import discriminator, examples, preferences
from crslib.training.preferences import Context

DECODING = Sampling(temperature=1.0, top_p=1.0, min_p=0.005)
"""How the model replies: words as it would say them in a simulation."""
SHORTEST, LONGEST = 0.8, 1.25  # targets of the rejected reply as a share of those of the chosen one
SCORED = preferences.CANDIDATES | {"text": pl.String, "log_odds": pl.Float64, "person_log_odds": pl.Float64}


def dialogue_of(context: Context) -> str:
    """The id of the context's dialogue."""
    return context.moment.rsplit(":", 1)[0]


def sample(contexts: Sequence[Context], n: int, seed: int) -> list[Context]:
    """`n` of the contexts, or all if there are fewer; sorted by id.

    The choice depends on `seed` and the ids, not on the order of `contexts`.
    """
    mixed = sorted(contexts, key=lambda one: (derive_seed(seed, "moment", one.context_id), one.context_id))
    return sorted(mixed[:n], key=lambda one: one.context_id)


def turns(people: Sequence[Context], contexts: Sequence[Context], drawn: pl.DataFrame) -> pl.DataFrame:
    """Turns of `discriminator.SCHEMA`: what people said in the contexts `people`, and what the model said in `contexts`
    (candidates `drawn`). Utterances that the model did not end are left out."""
    dialogues = {context.context_id: dialogue_of(context) for context in contexts}
    ended = drawn.filter(finish="end").select("context_id", "raw").iter_rows()
    rows = [(dialogue_of(context), context.reply, True) for context in people]
    rows += [(dialogues[context_id], clean(raw), False) for context_id, raw in ended]
    return pl.DataFrame(rows, schema=discriminator.SCHEMA, orient="row")


def with_log_odds(
    people: Sequence[Context], contexts: Sequence[Context], drawn: pl.DataFrame
) -> tuple[pl.DataFrame, list[Discriminator]]:
    """Candidates `drawn` with `text` and the log-odds that a person wrote it, and those of what the person said there:
    the columns of `SCORED`. Also the discriminators.

    The discriminator that scores a dialogue is fitted on the others: `people` and `contexts` are those of `turns`, and
    there is one discriminator for every part of the dialogues. Raises `CrsError` for too few dialogues.
    """
    said = turns(people, contexts, drawn)
    part = discriminator.fold(said["dialogue_id"].to_list())
    number = pl.col("dialogue_id").replace_strict(part)
    judges = {one: discriminator.fit(said.filter(number != one)) for one in sorted(set(part.values()))}
    by_id = {context.context_id: context for context in contexts}
    rows = []
    for row in drawn.iter_rows(named=True):
        context = by_id[row["context_id"]]
        judge = judges[part[dialogue_of(context)]]
        text = clean(row["raw"])
        odds = {"log_odds": judge.log_odds(text), "person_log_odds": judge.log_odds(context.reply)}
        rows.append(row | {"text": text} | odds)
    return pl.DataFrame(rows, schema=SCORED), list(judges.values())


def select_pairs(contexts: Sequence[Context], scored: pl.DataFrame, engine: Engine) -> pl.DataFrame:
    """At most one pair per context, what the person said and the first draw that will do: the columns of
    `preferences.PAIRS`, sorted by context.

    A draw will do if the model ended it, if it is not what the person said, has `SHORTEST` to `LONGEST` times as many
    targets, and if the discriminator takes it for a model's and for more of one than what the person said. Titles with
    their brackets are no targets. Where the person left without a word and the first draw does not, or the other way
    round, the first token of each side is its only target; no other draw counts there, so that such pairs are as
    frequent as the model's errors. As in `preferences`, the pairs that differ most in length are removed until both
    sides have the same mean. Raises `CrsError` for a template without an end-of-turn token.
    """
    template = ChatTemplate(*engine.chat_template)
    end = preferences.end_of_turn(template, engine)
    rows: list[tuple[Any, ...]] = []
    draws: Mapping[Any, pl.DataFrame] = scored.partition_by("context_id", as_dict=True)
    for context in sorted(contexts, key=lambda one: one.context_id):
        chosen, chosen_target = _with_targets(context.reply, engine, end)
        for draw in draws[(context.context_id,)].sort("draw").iter_rows(named=True):
            rejected, rejected_target = _with_targets(draw["text"], engine, end)
            if _differ_in_leaving(context, draw):
                sides = (chosen, rejected, _first_of(chosen), _first_of(rejected))
            elif _will_do(context, draw) and SHORTEST <= sum(rejected_target) / sum(chosen_target) <= LONGEST:
                sides = (chosen, rejected, chosen_target, rejected_target)
            else:
                continue
            prompt = template.encode(context.messages, engine)
            rows.append((context.context_id, context.role, prompt, *sides, [], context.reply, draw["text"]))
            break
    return preferences.balanced(pl.DataFrame(rows, schema=preferences.PAIRS, orient="row"))


def _differ_in_leaving(context: Context, draw: Mapping[str, Any]) -> bool:
    """Whether either the person or the model's first draw leaves without a word. A recommender does not."""
    whole = draw["draw"] == 0 and draw["finish"] == "end"
    return whole and context.role == USER and (not context.reply) != (not draw["text"])


def _will_do(context: Context, draw: Mapping[str, Any]) -> bool:
    spoken = context.reply and draw["text"]
    return bool(spoken) and draw["finish"] == "end" and draw["text"] != context.reply and _takes_for_a_models(draw)


def _first_of(ids: Sequence[int]) -> list[bool]:
    return [place == 0 for place in range(len(ids))]


def _takes_for_a_models(draw: Mapping[str, Any]) -> bool:
    return draw["log_odds"] < min(0.0, draw["person_log_odds"])


def _with_targets(text: str, engine: Engine, end: int) -> tuple[list[int], list[bool]]:
    """The ids of an utterance with its end, and which of them are targets: all that are not of a title."""
    ids = engine.encode(text)
    kinds = examples.kinds_of(text, ids, engine)
    return [*ids, end], [*(kind != examples.TITLE for kind in kinds), True]
