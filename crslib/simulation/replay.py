"""Replay: dialogues are read again by the models that spoke them. How likely was each word, which titles were possible?

A simulation stores words and notes; the rest is computed again from them. The view of each speaker is built as it was,
and its own model reads what it said. Only the text is stored: where a model had spelled a word in other tokens than the
tokenizer does, the replay uses the tokenizer's. Candidates come from the constraint of the recommender's decoding, so
from utterances and training ratings; hidden items are not read.
"""

import codecs
import heapq
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from crslib.config import SimulationParameters
from crslib.data.catalog import item_names
from crslib.dialogue import utterances
from crslib.dialogue.scripts import SCRIPTED, USER_TARGET
from crslib.dialogue.styles import Style
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Lookup, View, replay
from crslib.engines.base import Constraint
from crslib.engines.llama import log_softmax
from crslib.engines.loading import open_engines
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.recommender.grounding import Grounding
from crslib.recommender.prior import heard
from crslib.simulation.baselines import InformedPopulation
from crslib.simulation.dialogues import shows_facts
from crslib.simulation.population import Population
from crslib.store import Run

N_CANDIDATES = 5
_SPARE = 64  # tokens that a dialogue may have more of in the tokenizer's own spelling
TOKENS = {"dialogue_id": pl.String, "turn": pl.Int32, "position": pl.Int32, "piece": pl.String, "logprob": pl.Float64}
CANDIDATES = {
    "dialogue_id": pl.String,
    "turn": pl.Int32,
    "mention": pl.Int32,
    "item_id": pl.String,
    "title": pl.String,
    "log_prior": pl.Float64,
    "log_lm": pl.Float64,
    "probability": pl.Float64,
    "named": pl.Boolean,
}


class Reader(Protocol):
    """The part of an engine that reads text without drawing any."""

    chat_template: tuple[str, str, str, bool]

    @property
    def pieces(self) -> Sequence[bytes]: ...

    def encode(self, text: str, *, control: bool = False) -> list[int]: ...

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        """log P(continuation | prompt) of each (float64, nats)."""
        ...

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """The logits after each token from `start` on, (n, n_vocab); the tokens before `start` are the last prompt."""
        ...


class Replay(NamedTuple):
    """Tables with the columns of `TOKENS` and `CANDIDATES`, in the order of the dialogues."""

    tokens: pl.DataFrame
    candidates: pl.DataFrame


def look(
    run: Run,
    dialogue_ids: Sequence[str],
    parameters: SimulationParameters | None = None,
    progress: Progress = no_progress,
) -> Replay:
    """`read` with the run's own models. Empty for a run whose dialogues one model wrote as one text.

    `parameters`: those of the simulation; None: as `run.json` has them. Raises `CrsError` when a file is missing or is
    not the one that the run was simulated with.
    """
    info = run.info
    given = info.get("parameters", {})
    if parameters is None and "user_model" not in given:
        raise CrsError(f"{run.path} does not say which models it was simulated with; give its SimulationParameters")
    if given.get("baseline") == SCRIPTED:
        return Replay(pl.DataFrame(schema=TOKENS), pl.DataFrame(schema=CANDIDATES))
    parameters = parameters or SimulationParameters.pick(given)
    for role in (USER, RECOMMENDER):
        if not parameters.is_local(role):
            raise CrsError(f"the {role} {parameters.model(role)!r} cannot be replayed; only GGUF models can")
    population = (InformedPopulation if given.get("baseline") == USER_TARGET else Population).read(run)
    alone = {"width": 1, "n_ctx": parameters.n_ctx + _SPARE}
    with open_engines(parameters.model_copy(update=alone)) as (user, recommender):
        for role, engine in ((USER, user), (RECOMMENDER, recommender)):
            recorded = info.get("agents", {}).get(role, {})
            if any(recorded.get(name) != engine.identity[name] for name in ("model_sha256", "adapter_sha256")):
                raise CrsError(
                    f"the {role}'s model is not the one that {run.path} was simulated with; put that one back"
                )
            if (weights := recorded.get("weights")) != engine.identity["weights"]:
                raise CrsError(
                    f"{run.path} was simulated with weights of the {role} that were {weights}, and here they are "
                    f"{engine.identity['weights']}; read it with the version of crslib that made it, or run it again"
                )
        grounding = population.grounding(recommender, parameters)
        lookup = population.catalog.lookup if shows_facts(parameters) else {}
        return read(
            run, dialogue_ids, population, user, recommender, grounding, parameters.temperature, lookup, progress
        )


def read(
    run: Run,
    dialogue_ids: Sequence[str],
    population: Population,
    user: Reader,
    recommender: Reader,
    grounding: Grounding | None,
    temperature: float,
    lookup: Lookup,
    progress: Progress = no_progress,
) -> Replay:
    """How likely each word was to its speaker, and the candidates for each title that the recommender named.

    `tokens`: `logprob` (nats) is the model's own, at temperature 1 and before truncation and constraint, as
    `turns.mean_logprob` is; the pieces of a turn add up to its text. Its mean over a turn is the recorded one, but for
    rounding: quantized weights round differently when tokens are fed in other portions. Where the number of tokens
    differs from `n_tokens`, the model had spelled its words in another way.

    `candidates`: for each mention the `N_CANDIDATES` titles that decoding was most likely to write there and the one
    that was `named`, the most likely first. `log_prior` is the item prior's share among all that had not been
    recommended, `log_lm` the model's own log-probability of the title with its closing bracket (nats), `probability`
    the exact probability of the title under both; at `temperature` 0 the best one is sure. Without `grounding` there
    are none. `lookup`: the facts that the recommender's view had.
    """
    dialogues = run.read("dialogues").filter(pl.col("dialogue_id").is_in(list(dialogue_ids))).sort("dialogue_id")
    profiles = population.profile_rows
    names = {name: item for item, name in item_names(population.items.sort("item_id", descending=True)).items()}
    turns = run.read("turns").sort("dialogue_id", "turn").partition_by("dialogue_id", as_dict=True)
    readers = {USER: _RoleReader(user), RECOMMENDER: _RoleReader(recommender)}
    tokens: list[tuple[Any, ...]] = []
    candidates: list[tuple[Any, ...]] = []
    for done, dialogue in enumerate(dialogues.iter_rows(named=True)):
        progress(done, dialogues.height)
        dialogue_id = dialogue["dialogue_id"]
        rows = turns.get((dialogue_id,), pl.DataFrame()).to_dicts()
        styles = {role: Style.parse(dialogue[f"{role}_style"]) for role in (USER, RECOMMENDER)}
        user_view = population.view(profiles[dialogue["profile_id"]], styles[USER])
        for turn, view in zip(rows, replay(rows, user_view, lookup, styles[RECOMMENDER]), strict=True):
            place, reader = (dialogue_id, turn["turn"]), readers[turn["role"]]
            prompt = reader.prompt(view)
            tokens += [(*place, *token) for token in reader.tokens(prompt, turn["text"])]
            if turn["role"] == RECOMMENDER and grounding is not None:
                history = heard(rows[: turn["turn"]])
                constraint, shares = grounding.constraint(history), grounding.shares(history)
                for number, (name, start, _) in enumerate(utterances.mentions(turn["text"])):
                    opening = reader.encode(turn["text"][: start + 2])
                    decoder = _Decoder(recommender, constraint, prompt, opening, greedy=temperature == 0)
                    candidates += [
                        (*place, number, names[title], title, shares[title], *row)
                        for title, *row in decoder.candidates(name)
                    ]
    progress(dialogues.height, dialogues.height)
    return Replay(
        pl.DataFrame(tokens, schema=TOKENS, orient="row"), pl.DataFrame(candidates, schema=CANDIDATES, orient="row")
    )


class _RoleReader:
    """One role's reader with its chat template."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self.encode = reader, reader.encode
        self._template = ChatTemplate(*reader.chat_template)

    def prompt(self, view: View) -> list[int]:
        return self._template.encode(view.messages, self._reader)

    def tokens(self, prompt: Sequence[int], text: str) -> Iterator[tuple[int, str, float]]:
        """Position, text and log-probability of each token of `text` after `prompt`."""
        ids = self.encode(text)
        self._reader.score(prompt[:-1], [])
        logprobs = log_softmax(self._reader.read([*prompt, *ids[:-1]], len(prompt) - 1))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may span several tokens
        for position, token in enumerate(ids):
            yield position, decoder.decode(self._reader.pieces[token]), float(logprobs[position, token])


class _Decoder:
    """The titles that the recommender could have written after `opening`, which ends with `[[`, with probabilities."""

    def __init__(
        self, reader: Reader, constraint: Constraint, prompt: Sequence[int], opening: Sequence[int], *, greedy: bool
    ) -> None:
        self._reader, self._constraint, self._greedy = reader, constraint, greedy
        self._prompt, self._opening = list(prompt), list(opening)
        self._choices: dict[tuple[int, ...], list[tuple[int, float]]] = {}

    def candidates(self, named: str) -> list[tuple[str, float, float, bool]]:
        """Title, log-probability by the model, probability, and whether it is the one `named`."""
        rows = []
        for title in {*self._likeliest(), named}:
            ways = list(self._ways(title.encode()))
            if ways:  # none where the model was free, or had drawn other tokens
                paths, chances = zip(*ways, strict=True)
                read = float(np.logaddexp.reduce(self._reader.score(self._prompt + self._opening, paths)))
                rows.append((title, read, sum(chances), title == named))
        return sorted(rows, key=lambda row: (-row[2], row[0]))

    def _choice(self, path: tuple[int, ...]) -> list[tuple[int, float]]:
        """The tokens that may follow `path`, each with its probability of being drawn."""
        if path not in self._choices:
            ids = [*self._opening, *path]
            choice = self._constraint.allowed(ids)
            tokens = [] if choice is None else choice.tokens.tolist()
            scores = np.ones(len(tokens))
            if choice is not None and len(tokens) > 1:
                scores = choice.scores(self._reader.score(self._prompt + ids, [[token] for token in tokens]))
                scores = (scores == scores.max()).astype(np.float64) if self._greedy else np.exp(scores - scores.max())
                scores /= scores.sum()
            self._choices[path] = list(zip(tokens, scores.tolist(), strict=True))
        return self._choices[path]

    def _text(self, path: Sequence[int]) -> bytes:
        return b"".join(self._reader.pieces[token] for token in path)

    def _likeliest(self) -> list[str]:
        """The titles on the likeliest paths: best first, so nothing is read that could not be among them."""
        titles: list[str] = []
        reached: list[tuple[float, tuple[int, ...]]] = [(-1.0, ())]
        while reached and len(titles) < N_CANDIDATES:
            chance, path = heapq.heappop(reached)
            name, closing, _ = self._text(path).partition(b"]")
            if not closing:
                for token, probability in self._choice(path):
                    heapq.heappush(reached, (chance * probability, (*path, token)))
            elif (title := name.decode()) not in titles:
                titles.append(title)
        return titles

    def _ways(
        self, name: bytes, path: tuple[int, ...] = (), chance: float = 1.0
    ) -> Iterator[tuple[tuple[int, ...], float]]:
        """The paths that write `name` up to a closing bracket, with their probability."""
        for token, probability in self._choice(path):
            longer = (*path, token)
            text = self._text(longer)
            if text.startswith(name + b"]"):
                yield longer, chance * probability
            elif name.startswith(text):
                yield from self._ways(name, longer, chance * probability)
