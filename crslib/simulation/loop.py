"""The loop: two models talk, turn by turn, many dialogues side by side, and nobody knows a target.

A `Population` has no table with a held-out item. Each party answers from its own view: the recommender's is a
`RecommenderView`, which starts empty and gets utterances and facts of the items in them; the user's holds its knowledge
and its private notes.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from crslib.config import SimulationParameters, resolve
from crslib.data.catalog import Catalog
from crslib.dialogue import checks, styles
from crslib.dialogue.credits import Credits
from crslib.dialogue.discriminator import Discriminator
from crslib.dialogue.styles import Style
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, plain
from crslib.dialogue.views import RecommenderView, Turn, UserKnowledge, UserView, View, looked_up
from crslib.engines.base import Completion, Engine, Request
from crslib.engines.loading import engine_record
from crslib.engines.resampling import Fits, LogWeight, Resampling
from crslib.identity import derive_seed
from crslib.recommender.grounding import Grounding
from crslib.recommender.prior import Utterance
from crslib.simulation.dialogues import Dialogues, wanted, words_key
from crslib.simulation.population import Population
from crslib.store import Journal, Progress, no_progress

HUMAN_RECOMMENDER_OPENS = 0.65  # share of ReDial dialogues in which the recommender speaks first (DESIGN §4)
ALIVE_PER_ROW = 2.5  # dialogues alive per row of an engine: more cost memory, fewer leave rows or the feeder idle


def simulate(
    population: Population,
    user: Engine,
    recommender: Engine,
    parameters: SimulationParameters,
    journal: Journal,
    progress: Progress = no_progress,
) -> Dialogues:
    """The dialogues of every profile of `population` with the recommender.

    A dialogue depends on (seed, profile, condition, engine identity) only. Each is appended to `journal` when it ends;
    those that are there already, under the same `words_key`, are not simulated again. `progress` counts dialogues.
    Raises `CrsError` when an engine fails or the journal cannot be written; what had ended before is kept.
    """
    key = words_key(parameters, population, (user, recommender))
    journal.keep_only(key)
    profiles = wanted(population.profiles, parameters)
    waiting = deque(sorted(profiles.keys() - journal.dialogue_ids))
    alive: dict[str, _Dialogue] = {}
    grounding = population.grounding(recommender, parameters)
    writers = styles.read(parameters.styles)
    parties: dict[str, _Party] = {
        USER: _User(user, population, parameters),
        RECOMMENDER: _Recommender(recommender, population.catalog, grounding, parameters),
    }
    room = round(ALIVE_PER_ROW * max(user.width, recommender.width))
    progress(len(profiles) - len(waiting), len(profiles))
    while waiting or alive:
        while waiting and len(alive) < room:
            dialogue_id = waiting.popleft()
            dialogue = alive[dialogue_id] = _begin(dialogue_id, profiles[dialogue_id], population, writers, parameters)
            parties[dialogue.speaker].ask(dialogue)
        # The party with more to do goes on: with more dialogues alive than rows, the rows of its engine are nearly all
        # busy and the feeder has something in hand.
        party = max(parties.values(), key=lambda party: party.engine.pending)
        for dialogue_id, completion in party.engine.step():
            dialogue = alive[dialogue_id]
            party.answer(dialogue, completion)
            if dialogue.stop_reason is None:
                listener = parties[dialogue.speaker]
                listener.hear(dialogue)
                listener.ask(dialogue)
                continue
            user.release(dialogue_id)
            recommender.release(dialogue_id)
            journal.append({"key": key, **alive.pop(dialogue_id).record(parameters.seed)})
            progress(len(profiles) - len(waiting) - len(alive), len(profiles))
    return Dialogues.of(journal, parameters.condition, engine_record(user, recommender))


@dataclass
class _Dialogue:
    dialogue_id: str
    profile_id: str
    opener: str
    user: UserView
    recommender: RecommenderView
    styles: Mapping[str, Style | None]
    turns: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)  # the user's, on the recommender's last utterance
    stop_reason: str | None = None

    @property
    def speaker(self) -> str:
        """Whose turn it is: the parties alternate from the opener."""
        even = len(self.turns) % 2 == 0
        return self.opener if even else (USER if self.opener == RECOMMENDER else RECOMMENDER)

    def record(self, seed: int) -> dict[str, Any]:
        """The ended dialogue as rows of the tables `dialogues`, `turns` and `prompts`."""
        key = {"dialogue_id": self.dialogue_id}
        dialogue = {
            **key,
            "profile_id": self.profile_id,
            "opener": self.opener,
            "seed": seed,
            "stop_reason": self.stop_reason,
            "n_turns": len(self.turns),
            **{f"{role}_style": None if style is None else str(style) for role, style in self.styles.items()},
        }
        turns, prompts = ([{**key, **row} for row in rows] for rows in (self.turns, self.prompts))
        return {"dialogue": dialogue, "turns": turns, "prompts": prompts}


def _begin(
    dialogue_id: str,
    profile: Mapping[str, Any],
    population: Population,
    writers: pl.DataFrame,
    parameters: SimulationParameters,
) -> _Dialogue:
    opener: str = parameters.opener
    if opener == "mixed":
        chance = derive_seed(parameters.seed, dialogue_id, "opener") / 0xFFFFFFFF
        opener = RECOMMENDER if chance < HUMAN_RECOMMENDER_OPENS else USER
    # A person writes alike in all of its dialogues; who recommends is somebody else in each.
    drawn = {
        role: styles.draw(writers, role, derive_seed(parameters.seed, writer, role, "style"))
        for role, writer in ((USER, profile["profile_id"]), (RECOMMENDER, dialogue_id))
    }
    user = population.view(profile, drawn[USER])
    return _Dialogue(dialogue_id, profile["profile_id"], opener, user, RecommenderView(drawn[RECOMMENDER]), drawn)


class _Party(ABC):
    """One role's engine with its chat template: hears the other party, and is asked from the role's view alone."""

    role: str

    def __init__(self, engine: Engine, empty: View, catalog: Catalog, parameters: SimulationParameters) -> None:
        """`empty`: a view of this role without anything of a dialogue; what it shares with others is computed once."""
        self.engine, self._catalog, self._parameters = Resampling(engine, parameters.resample), catalog, parameters
        self._log_weight = _log_weight(self.engine, self.role, parameters)
        self._template = ChatTemplate(*engine.chat_template)
        self._beginning = self._template.encode(empty.messages, engine)
        self._requests: dict[str, Request] = {}

    @abstractmethod
    def _view(self, dialogue: _Dialogue) -> View:
        """The role's view of a dialogue."""

    @abstractmethod
    def hear(self, dialogue: _Dialogue) -> None:
        """Takes the other party's last turn into the role's view."""

    def ask(self, dialogue: _Dialogue) -> None:
        """Requests the role's next utterance, from its view alone."""
        prompt = tuple(self._template.encode(self._view(dialogue).messages, self.engine))
        seed = derive_seed(self._parameters.seed, dialogue.dialogue_id, self.role, len(dialogue.turns))
        n_shared = next(
            (i for i, (a, b) in enumerate(zip(prompt, self._beginning, strict=False)) if a != b), len(prompt) - 1
        )
        request = Request(dialogue.dialogue_id, prompt, seed, n_shared=n_shared)
        self._requests[dialogue.dialogue_id] = request
        self._submit(request, dialogue)

    def _submit(self, request: Request, dialogue: _Dialogue) -> None:
        self.engine.submit(request, self._fits(dialogue), self._log_weight)

    def _fits(self, dialogue: _Dialogue) -> Fits:
        """Which utterances go with what the role knows (`dialogue.checks`)."""
        history, notes = tuple(dialogue.turns), dialogue.notes if self.role == USER else []

        def fits(completion: Completion) -> bool:
            text = clean(self.engine.decode(completion.ids))
            turn = {"role": self.role, "text": text, "items": self._catalog.link(text), "notes": notes}
            return self._check(turn, history, dialogue)

        return fits

    @abstractmethod
    def _check(self, turn: Turn, history: Sequence[Turn], dialogue: _Dialogue) -> bool:
        """Whether the role may say `turn` after `history`."""

    def answer(self, dialogue: _Dialogue, completion: Completion) -> None:
        """Adds an utterance to the dialogue and to the role's own view, or ends the dialogue.

        What was newly fed before it is stored for the audit.
        """
        fed = self._requests.pop(dialogue.dialogue_id).prompt[completion.n_cached :]
        dialogue.prompts.append(
            {"turn": len(dialogue.turns), "role": self.role, "text": self.engine.decode(fed), "n_tokens": len(fed)}
        )
        text = clean(self.engine.decode(completion.ids))
        dialogue.stop_reason = _ends_before(self.role, text, completion)
        if dialogue.stop_reason is not None:
            return
        dialogue.turns.append(
            {
                "turn": len(dialogue.turns),
                "role": self.role,
                "text": text,
                "items": self._catalog.link(text),
                "notes": dialogue.notes if self.role == USER else [],
                "n_tokens": len(completion.ids),
                "mean_logprob": sum(completion.logprobs) / len(completion.logprobs) if completion.logprobs else None,
                "finish": completion.finish,
            }
        )
        self._view(dialogue).say(text, completion.ids)
        dialogue.stop_reason = _ends_after(dialogue.turns, completion, self._parameters.max_turns)


class _User(_Party):
    role = USER

    def __init__(self, engine: Engine, population: Population, parameters: SimulationParameters) -> None:
        self._population = population
        self._profiles = {row["profile_id"]: row for row in population.profiles.iter_rows(named=True)}
        self._items = {row["item_id"]: row for row in population.items.iter_rows(named=True)}
        super().__init__(engine, UserView(UserKnowledge("", "")), population.catalog, parameters)

    def _view(self, dialogue: _Dialogue) -> UserView:
        return dialogue.user

    def hear(self, dialogue: _Dialogue) -> None:
        """With private notes on the items just named, each once: what the user remembers or thinks of them."""
        turn, notes = dialogue.turns[-1], {}
        for item in turn["items"] if self._parameters.memory else ():
            seen, liked = self._population.opinions.of(dialogue.profile_id, item["item_id"])
            notes[item["title"]] = {"item_id": item["item_id"], "title": item["title"], "seen": seen, "liked": liked}
        dialogue.notes = list(notes.values())
        dialogue.user.follow(turn, dialogue.notes)

    def _check(self, turn: Turn, history: Sequence[Turn], dialogue: _Dialogue) -> bool:
        return checks.user_fits(turn, history, self._profiles[dialogue.profile_id], self._items)


class _Recommender(_Party):
    """Gets no population: neither profiles nor opinions can reach it."""

    role = RECOMMENDER

    def __init__(
        self, engine: Engine, catalog: Catalog, grounding: Grounding | None, parameters: SimulationParameters
    ) -> None:
        super().__init__(engine, RecommenderView(), catalog, parameters)
        self._grounding = grounding
        self._lookup = catalog.lookup if parameters.facts else {}
        self._credits = Credits.of(catalog.items)

    def _view(self, dialogue: _Dialogue) -> RecommenderView:
        return dialogue.recommender

    def hear(self, dialogue: _Dialogue) -> None:
        """With facts of the items named since the recommender was last asked, each once."""
        dialogue.recommender.follow(dialogue.turns[-1], looked_up(public(dialogue.turns), self._lookup))

    def _check(self, turn: Turn, history: Sequence[Turn], dialogue: _Dialogue) -> bool:
        return checks.recommender_fits(turn, public(history), self._credits)

    def _submit(self, request: Request, dialogue: _Dialogue) -> None:
        if self._grounding is not None:
            request = replace(request, constraint=self._grounding.constraint(utterances_of(dialogue.turns)))
        super()._submit(request, dialogue)


def _log_weight(engine: Engine, role: str, parameters: SimulationParameters) -> LogWeight | None:
    """How much more likely than the model people are to say what it said; None where nothing weighs the draws."""
    if not parameters.discriminators:
        return None
    judge = Discriminator.read(resolve(parameters.discriminators) / f"{role}.json")
    return lambda completion: judge.log_odds(clean(engine.decode(completion.ids)))


def public(turns: Sequence[Turn]) -> list[Turn]:
    """Rows of `turns` without the user's notes, for all that the recommender decides by."""
    return [{name: turn[name] for name in ("role", "text", "items")} for turn in turns]


def utterances_of(turns: Sequence[Mapping[str, Any]]) -> list[Utterance]:
    """What both parties heard. The rows of `turns` also hold the user's notes; those must not get further."""
    return [Utterance(turn["role"], turn["text"], [item["item_id"] for item in turn["items"]]) for turn in turns]


def _ends_before(role: str, text: str, completion: Completion) -> str | None:
    """Why a dialogue ends without this utterance: its party leaves, or nothing fits into the context any more."""
    if not text and role == USER and completion.finish == "end":
        return "user_left"
    if completion.finish == "left":
        return f"{role}_left"
    if not completion.ids and completion.finish == "context_full":
        return "context_full"
    return None


def _ends_after(turns: Sequence[Mapping[str, Any]], completion: Completion, max_turns: int) -> str | None:
    """Why a dialogue ends with the last of `turns`; None: it goes on."""
    if completion.finish == "context_full":
        return "context_full"
    if _repeats(turns):
        return "repetition"
    return "max_turns" if len(turns) >= max_turns else None


def _repeats(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last utterance, of at least four words, is the same party's third of the same words."""
    last = turns[-1]
    words = plain(last["text"]).lower().split()
    same = [turn for turn in turns if turn["role"] == last["role"] and plain(turn["text"]).lower().split() == words]
    return len(words) >= 4 and len(same) >= 3
