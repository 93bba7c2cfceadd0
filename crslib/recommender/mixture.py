"""Which title is named next: a mixture of a language model that reads the dialogue and an item prior (DESIGN §6).

    P(title) ∝ P_model(title | dialogue)^model · prior(title)^prior / P_model(title | no dialogue)^base

The last factor takes out what the model thinks of a title whatever is said: how often it has read it, and how long it
is. Knows titles, models and dialogues; nothing of catalogues or of how a token is drawn.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from crslib.data.titles import split_year
from crslib.dialogue.domain import Domain
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import RecommenderView
from crslib.engines.preparation import cpu
from crslib.files import writing
from crslib.identity import digest
from crslib.recommender.prior import Utterance

_N_EXACT = 10  # the first tokens of the most titles: after these the second token is scored in the dialogue too
_WEIGHTS = ("engine", "llama_cpp_python", "model_sha256", "adapter_sha256", "weights", "n_gpu_layers")  # of P_model


class TokenReader(Protocol):
    """The part of an engine that scores tokens."""

    chat_template: tuple[str, str, str, bool]

    def encode(self, text: str, *, control: bool = False) -> list[int]: ...

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """log P(token | prompt, tokens before it) of every token of each (nats)."""
        ...


class Reader(TokenReader, Protocol):
    """The part of an engine that scores continuations, and one prompt after another without reading it anew."""

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        """log P(continuation | prompt) of each (float64, nats)."""
        ...


class Mixture(NamedTuple):
    """The exponents in the module's formula."""

    model: float = 1.0
    prior: float = 1.0
    base: float = 0.0

    def weights(self, log_prior: np.ndarray, log_base: np.ndarray) -> np.ndarray:
        """The log-weight of each title without the model's reading of the dialogue, up to a constant (float64)."""
        return self.prior * np.asarray(log_prior, np.float64) - self.base * np.asarray(log_base, np.float64)

    def scores(self, log_model: np.ndarray, log_prior: np.ndarray, log_base: np.ndarray) -> np.ndarray:
        """log P of each title, up to a constant (float64, nats)."""
        return self.model * np.asarray(log_model, np.float64) + self.weights(log_prior, log_base)


class TitleModel:
    """log P(title | dialogue) of every title by a language model in the role of the recommender.

    The first token is scored in the dialogue, and after the most frequent first tokens the second token too. The rest
    of a title hardly depends on the dialogue and is scored once without one (`token_table`).
    """

    def __init__(self, reader: Reader, names: Sequence[str], domain: Domain) -> None:
        self._reader, self._domain = reader, domain
        titles = [tuple(reader.encode(name)) for name in names]
        table = token_table(reader, names, titles, domain)
        # Frequent among titles, not among mentions: a property of the catalogue.
        frequent = {token for token, _ in Counter(title[0] for title in titles).most_common(_N_EXACT)}
        heads = [title[: 2 if title[0] in frequent else 1] for title in titles]
        self._heads = sorted(set(heads))
        place = {head: index for index, head in enumerate(self._heads)}
        self._head_of = np.array([place[head] for head in heads], np.intp)
        self.base: np.ndarray = table.sum(axis=1)
        self._tails = np.array([row[len(head) :].sum() for row, head in zip(table, heads, strict=True)])

    def __call__(self, turns: Sequence[Utterance]) -> np.ndarray:
        """(n_titles,) in nats."""
        return self._reader.score(_prompt(self._reader, turns, self._domain), self._heads)[self._head_of] + self._tails


def token_table(
    reader: TokenReader,
    names: Sequence[str],
    titles: Sequence[Sequence[int]],
    domain: Domain,
    cache: Path | None = None,
) -> np.ndarray:
    """log P(token | no dialogue, tokens before it) of every token of `titles`, the tokens of `names`: float64 in nats,
    (n_titles, longest + 1), 0 behind the last token.

    A title is scored up to the bracket before its year: the year is chosen among the items of the same name. A name
    without a year is scored up to the end of its mention. Takes half a minute for 7,000 titles on two cores; with a
    folder `cache`, once for each model, kind of processor and catalogue.
    """
    end = reader.encode("]]")
    scored = []
    for name, title in zip(names, titles, strict=True):
        text, year = split_year(name)
        before = reader.encode(f"{text} (")
        begins = year is not None and list(title[: len(before)]) == before
        scored.append(tuple(before) if begins else (*title, *end[:1]))
    identity: Mapping[str, Any] = getattr(reader, "identity", {})
    of = {"cpu": cpu(), **{name: identity.get(name) for name in _WEIGHTS}}
    no_dialogue = _prompt(reader, [Utterance(USER, domain.system.request)], domain)
    path = cache / f"{digest([of, no_dialogue, scored], 'titles')}.npy" if cache and of["model_sha256"] else None
    table = np.zeros((len(titles), max(map(len, titles), default=0) + 1), np.float32)
    if path is not None and (read_before := _cached(path, table)) is not None:
        return read_before.astype(np.float64)
    for row, logprobs in enumerate(reader.score_tokens(no_dialogue, scored)):
        table[row, : len(logprobs)] = logprobs
    if path is not None:
        with writing(path) as temporary, temporary.open("wb") as file:
            np.save(file, table)
    return table.astype(np.float64)


def _cached(path: Path, like: np.ndarray) -> np.ndarray | None:
    """The table in a file of the cache, of the shape and type of `like`; None where there is none. A damaged one is
    said, and made anew."""
    try:
        table: Any = np.load(path)
        same = isinstance(table, np.ndarray) and (table.shape, table.dtype) == (like.shape, like.dtype)
        if same and np.isfinite(table).all() and (table <= 0).all():
            return table
    except FileNotFoundError:
        return None
    except Exception:  # NumPy parses the header as Python, so the type depends on where the damage is
        pass
    warnings.warn(f"{path} is damaged: it is made anew", stacklevel=2)
    return None


def opening(domain: Domain) -> str:
    """The beginning of the utterance that a title continues: "Have you seen [["."""
    return f"{domain.system.asks} [["


def _prompt(reader: TokenReader, turns: Sequence[Utterance], domain: Domain) -> list[int]:
    view = RecommenderView.of([turn._asdict() for turn in turns], domain)
    return [*ChatTemplate(*reader.chat_template).encode(view.messages, reader), *reader.encode(opening(domain))]
