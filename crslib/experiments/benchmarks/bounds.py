"""What ideas for a faster engine could gain at most, each from measured parts, before anybody builds it.

Speeds are those of computations of a fixed shape in llama.cpp alone; shares are those of the words of a run. A bound
takes everything else as free: the bookkeeping that an idea needs makes its gain smaller, never larger.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from time import perf_counter

import numpy as np
import polars as pl

from crslib.config import SimulationParameters, n_threads
from crslib.data.catalog import item_names
from crslib.dialogue.templates import Tokenizer
from crslib.dialogue.utterances import RECOMMENDER, mentions
from crslib.engines import llama
from crslib.engines.llama.context import Batch, Context
from crslib.engines.loading import engine_files
from crslib.files import Progress, no_progress
from crslib.store import Run

_HELD = 192  # tokens of the dialogue before a computation
_TIMES = 12  # computations of a shape; the least counts
_DRAFT = 3  # tokens that are drafted at a time
_ORDER = 2  # tokens that must have been said before, for the token after them to be a draft


@dataclass(frozen=True)
class Shape:
    """A computation: `n` new tokens in each of `rows` dialogues, with the logits after the last `heads` of them all."""

    rows: int
    n: int
    heads: int


def seconds(context: Context, shapes: Sequence[Shape], progress: Progress = no_progress) -> dict[Shape, float]:
    """The least seconds that each of `shapes` takes, behind `_HELD` tokens in every row; the shapes take turns."""
    prompt = [7] * _HELD
    for row in range(max(shape.rows for shape in shapes)):
        context.prefill(row, prompt, 0)
    least = dict.fromkeys(shapes, float("inf"))
    for time in range(_TIMES):
        progress(time, _TIMES)
        for shape in shapes:
            least[shape] = min(least[shape], _computed(context, shape))
    progress(_TIMES, _TIMES)
    return least


def _computed(context: Context, shape: Shape) -> float:
    """Seconds of one computation; the rows hold afterwards what they held before."""
    size = shape.rows * shape.n
    batch = Batch(size)
    try:
        batch.token[:] = 7
        batch.pos[:] = np.tile(np.arange(_HELD, _HELD + shape.n), shape.rows)
        for place in range(size):
            batch.assign(place, place // shape.n)
        batch.logits[size - shape.heads :] = 1
        batch.handle.n_tokens = size
        begun = perf_counter()
        context.decode(batch)
        spent = perf_counter() - begun
    finally:
        batch.free()
    for row in range(shape.rows):
        context.drop(row, _HELD)
    return spent


def measure(run: Run, parameters: SimulationParameters, progress: Progress = no_progress) -> pl.DataFrame:
    """The ideas, each with the seconds that the engine needs today and those that the idea would need at least.

    Columns `idea`, `today_s`, `idea_s` (per 1,000 tokens drawn, by all threads in one engine), `gain` (of all seconds,
    fed and drawn), `by` (what it was computed from). Raises `CrsError` for files that cannot be read or do not fit.
    """
    role, width = RECOMMENDER, parameters.width
    path, adapter, source = engine_files(parameters, parameters.model(role), parameters.adapter(role))
    piece, few = Shape(1, 16, 1), Shape(4, 16, 4)
    step, bare, forced = Shape(width, 1, width), Shape(width, 1, 1), Shape(1, 4, 4)
    drafted = Shape(width, 1 + _DRAFT, width * (1 + _DRAFT))
    with closing(llama.Model(path, source)) as model:
        with closing(Context(model, adapter, parameters.context, width, n_threads(parameters.threads))) as context:
            spent = seconds(context, [piece, few, step, bare, forced, drafted], progress)
        said = shares(run, model)
    steps = 1000 * spent[step] / width  # every row busy
    pieces = 1000 * said.fed * spent[piece] / piece.n
    cost = {shape: spent[shape] / spent[step] for shape in spent}
    head = (1 - cost[bare]) * width / (width - 1)  # the output layer, as a share of a step
    # A row feeds what is forced by itself, since the others have nothing forced at that moment.
    jumped = steps * (1 - said.forced + said.forced * width * cost[forced] / forced.n)
    four = spent[few] / spent[piece]  # four pieces at once, in pieces
    ideas = {
        "the tokens that a title forces, in one piece": (steps, jumped),
        "the prompts of four dialogues in one computation": (pieces, pieces * four / few.rows),
        "the output layer for a quarter of the vocabulary": (steps, steps * (1 - 0.75 * head)),
        f"drafts of {_DRAFT} tokens from what was said": (steps, steps * cost[drafted] / (1 + said.accepted)),
    }
    by = [
        f"{said.forced:.1%} of the drawn tokens are forced; {forced.n} as one piece cost {cost[forced]:.2f} steps",
        f"{said.fed:.2f} tokens are fed for one that is drawn; four pieces at once cost {four:.2f} of one",
        f"the output layer is {head:.1%} of a step",
        f"{said.accepted:.2f} tokens of a draft are right; a step with drafts costs {cost[drafted]:.2f} steps",
    ]
    today, best = zip(*ideas.values(), strict=True)
    frame = pl.DataFrame({"idea": [*ideas], "today_s": today, "idea_s": best, "by": by})
    gain = (pl.col("today_s") - pl.col("idea_s")) / (steps + pieces)
    return frame.select("idea", "today_s", "idea_s", gain.alias("gain"), "by")


@dataclass(frozen=True)
class Shares:
    """Of the recommender's words in a run. `fed`: others' tokens for each token drawn. `forced`: share of the drawn
    tokens that no title of the catalogue leaves a choice for. `accepted`: tokens of a draft that are right."""

    fed: float
    forced: float
    accepted: float


def shares(run: Run, tokenizer: Tokenizer) -> Shares:
    """Counts in the turns of a run, and in its prompts, which have what was fed."""
    names = {tuple(tokenizer.encode(name)) for name in item_names(run.read("items")).values()}
    ways: dict[tuple[int, ...], set[int]] = {}  # what may follow the beginning of a title
    for name in names:
        for n, token in enumerate(name):
            ways.setdefault(name[:n], set()).add(token)
    drawn = forced = right = places = 0
    turns = run.read("turns").sort("dialogue_id", "turn")
    for _, dialogue in turns.group_by("dialogue_id", maintain_order=True):
        past: list[int] = []
        for role, text in dialogue.select("role", "text").iter_rows():
            ids = tokenizer.encode(text)
            if role == RECOMMENDER:
                drawn += len(ids) + 1  # and its end
                for mentioned, *_ in mentions(text):
                    title = tuple(tokenizer.encode(mentioned))
                    forced += sum(len(ways.get(title[:n], ())) == 1 for n in range(len(title)))
                right += sum(_right([*past, *ids[:n]], ids[n:]) for n in range(len(ids)))
                places += len(ids)
            past += ids
    fed = sum(len(tokenizer.encode(text)) for text in run.read("prompts").filter(role=RECOMMENDER)["text"])
    return Shares(fed / drawn, forced / drawn, right / places)


def _right(past: Sequence[int], coming: Sequence[int]) -> int:
    """How many tokens of a draft come: of those that followed where the last `_ORDER` tokens of `past` came before."""
    last = list(past[-_ORDER:])
    for end in range(len(past) - 1, _ORDER - 1, -1):
        if list(past[end - _ORDER : end]) == last:
            draft = past[end : end + _DRAFT]
            return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(draft, coming, strict=False)))
    return 0


def lines(bounds: pl.DataFrame) -> list[str]:
    """The rows of `measure` as text."""
    return [
        f"{row['gain']:+7.1%}  {row['idea']}: {row['today_s']:.2f} s, at best {row['idea_s']:.2f}; {row['by']}"
        for row in bounds.iter_rows(named=True)
    ]
