"""The loop: two agents talk, turn by turn, many dialogues side by side, and nobody knows a target.

A `Population` has no table with a held-out item. Each party answers from its own view: the recommender's is a
`RecommenderView`, which starts empty and gets utterances and facts of the items in them; the user's holds its knowledge
and its private notes. Who or what an agent is, the loop does not know.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from crslib.agents.base import Agent, Ask, Faults, Reply
from crslib.config import SimulationParameters
from crslib.data.catalog import Catalog
from crslib.dialogue import checks, styles
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER, plain
from crslib.dialogue.views import RecommenderView, Turn, UserView, View, looked_up
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.identity import derive_seed
from crslib.journal import Journal
from crslib.simulation.dialogues import Dialogues, keep_wanted, shows_facts, style_files, wanted, words_key
from crslib.simulation.population import Population
from crslib.users.opinions import UserOpinions

HUMAN_RECOMMENDER_OPENS = 0.65  # share of ReDial dialogues in which the recommender speaks first (DESIGN §4)
HOPELESS = 8  # dialogues that failed, and none that ended, after which the others are not tried
ALIVE_PER_ROW = 2.5  # dialogues alive per row of an engine: more cost memory, fewer leave rows or the feeder idle


def simulate(
    population: Population,
    user: Agent,
    recommender: Agent,
    parameters: SimulationParameters,
    journal: Journal,
    progress: Progress = no_progress,
    only: Set[str] | None = None,
    failed: Callable[[Mapping[str, Any]], None] = lambda row: None,
    more: Callable[[bool], Collection[str]] = lambda wait: (),
) -> Dialogues:
    """The dialogues of every profile of `population` with the recommender.

    `only`: ids (of `dialogues.wanted`) of those to simulate now; None: all. Their words are the same either way.
    `failed` gets each row of `failures` as soon as it is one. `more` gives ids beside `only` while the others are made;
    where it is told to wait, nothing else is left, and none means that this is all.

    A dialogue depends on (seed, profile, condition, agents' identities) only, if both agents are `reproducible`. Each
    is appended to `journal` when it ends; those that are there already, under the same `words_key` and of the same
    person, are not simulated again. Where an agent has no utterance the dialogue is a row of `failures`, and the next
    call tries it again. `progress` counts dialogues. Raises `CrsError` when every dialogue fails or the journal cannot
    be written; what had ended before is kept. With `only` all may fail: whether that is the end, the caller knows, who
    has the whole run.
    """
    key = words_key(parameters, population, (user, recommender))
    profiles = wanted(population.profiles, parameters)
    people = {dialogue_id: population.person_sha256(profile) for dialogue_id, profile in profiles.items()}
    keep_wanted(journal, key, people)
    now = set(profiles) if only is None else profiles.keys() & only
    waiting = deque(sorted(now - journal.dialogue_ids))
    alive: dict[str, _Dialogue] = {}
    failures: list[dict[str, Any]] = []
    writers = {role: styles.read(path) for role, path in style_files(parameters).items()}
    parties: dict[str, _Party] = {
        USER: _User(user, population, parameters),
        RECOMMENDER: _Recommender(recommender, population.catalog, parameters),
    }
    room = most_alive(user, recommender)
    progress(len(now) - len(waiting), len(now))
    while True:
        dealt = set(more(not waiting and not alive)) - now
        now |= dealt
        waiting.extend(sorted(dealt - journal.dialogue_ids))
        if not waiting and not alive:
            break
        while waiting and len(alive) < room:
            dialogue_id = waiting.popleft()
            dialogue = alive[dialogue_id] = _begin(dialogue_id, profiles[dialogue_id], population, writers, parameters)
            parties[dialogue.speaker].ask(dialogue)
        for party, dialogue_id, reply in _step(parties[USER], parties[RECOMMENDER]):
            dialogue = alive[dialogue_id]
            party.answer(dialogue, reply)
            if dialogue.stop_reason is None:
                listener = parties[dialogue.speaker]
                listener.hear(dialogue)
                listener.ask(dialogue)
                continue
            user.release(dialogue_id)
            recommender.release(dialogue_id)
            del alive[dialogue_id]
            if dialogue.stop_reason == "failed":
                failures.append(dialogue.failure(party.role, reply.error))
                failed(failures[-1])
                if only is None:
                    check_hope(journal, failures)
            else:
                journal.append({"key": key, "person": people[dialogue_id], **dialogue.record(parameters.seed)})
            progress(len(now) - len(waiting) - len(alive), len(now))
    agents = {USER: user, RECOMMENDER: recommender}
    return Dialogues.of(journal, parameters, agents, failures, whole=only is None)


def most_alive(user: Agent, recommender: Agent) -> int:
    """How many dialogues these agents have side by side."""
    return round(ALIVE_PER_ROW * max(user.width, recommender.width))


def check_hope(journal: Journal, failures: Collection[Mapping[str, Any]]) -> None:
    """Raises `CrsError` where `HOPELESS` dialogues of a whole run failed and none ended."""
    if not journal.records and len(failures) >= HOPELESS:
        *_, last = failures
        raise CrsError(f"{len(failures)} dialogues failed and none ended: {last['error']}")


def _step(user: "_Party", recommender: "_Party") -> list[tuple["_Party", str, Reply]]:
    """What the parties have said after a step.

    The party with more to do goes first, and may be waited for where the other has nothing to do. Of two engines that
    work only while they are stepped one goes on at a time: with more dialogues alive than rows, the rows of its engine
    are nearly all busy and the feeder has something in hand.
    """
    first, second = sorted((user, recommender), key=lambda party: -party.agent.pending)
    said = []
    if second.agent.pending and second.agent.background:
        said = [(second, *one) for one in second.agent.step(wait=False)]
    elif second.agent.pending and first.agent.background:
        first, second = second, first
        said = [(second, *one) for one in second.agent.step(wait=False)]
    idle = not said and (second.agent.background or not second.agent.pending)
    return said + [(first, *one) for one in first.agent.step(wait=idle)]


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
    usage: dict[str, list[int]] = field(default_factory=lambda: {USER: [0, 0], RECOMMENDER: [0, 0]})  # tokens in, out
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
        return {"dialogue": dialogue, "turns": turns, "prompts": prompts, "usage": self.usage}

    def failure(self, role: str, error: str) -> dict[str, Any]:
        """The dialogue as a row of table `failures`: `role` had no utterance, for the reason `error`."""
        key = {"dialogue_id": self.dialogue_id, "profile_id": self.profile_id}
        return {**key, "turn": len(self.turns), "role": role, "error": error}


def _begin(
    dialogue_id: str,
    profile: Mapping[str, Any],
    population: Population,
    writers: Mapping[str, pl.DataFrame],
    parameters: SimulationParameters,
) -> _Dialogue:
    opener: str = parameters.opener
    if opener == "mixed":
        chance = derive_seed(parameters.seed, dialogue_id, "opener") / 0xFFFFFFFF
        opener = RECOMMENDER if chance < HUMAN_RECOMMENDER_OPENS else USER
    # A person writes alike in all of its dialogues; who recommends is somebody else in each.
    drawn = {
        role: styles.draw(writers[role], role, derive_seed(parameters.seed, writer, role, "style"))
        for role, writer in ((USER, profile["profile_id"]), (RECOMMENDER, dialogue_id))
    }
    user = population.view(profile, drawn[USER])
    return _Dialogue(
        dialogue_id, profile["profile_id"], opener, user, RecommenderView(population.domain, drawn[RECOMMENDER]), drawn
    )


class _Party(ABC):
    """One role's agent: hears the other party, and is asked from the role's view alone."""

    role: str

    def __init__(self, agent: Agent, catalog: Catalog, parameters: SimulationParameters) -> None:
        self.agent, self._catalog, self._parameters = agent, catalog, parameters

    @abstractmethod
    def _view(self, dialogue: _Dialogue) -> View:
        """The role's view of a dialogue."""

    @abstractmethod
    def hear(self, dialogue: _Dialogue) -> None:
        """Takes the other party's last turn into the role's view."""

    @abstractmethod
    def _faults(self, dialogue: _Dialogue) -> Faults:
        """How little utterances go with what the role knows (`dialogue.checks`).

        An agent gets this function, so it holds nothing that the role must not know.
        """

    def ask(self, dialogue: _Dialogue) -> None:
        """Asks for the role's next utterance, from its view alone."""
        seed = derive_seed(self._parameters.seed, dialogue.dialogue_id, self.role, len(dialogue.turns))
        self.agent.ask(Ask(dialogue.dialogue_id, self._view(dialogue), seed, self._faults(dialogue)))

    def answer(self, dialogue: _Dialogue, reply: Reply) -> None:
        """Adds an utterance to the dialogue and to the role's own view, or ends the dialogue.

        What was newly sent for it is stored for the audit.
        """
        dialogue.prompts.append(
            {
                "turn": len(dialogue.turns),
                "role": self.role,
                "text": reply.sent.text,
                "n_tokens": reply.sent.n_tokens,
            }
        )
        counted = dialogue.usage[self.role]
        counted[0] += reply.tokens_in
        counted[1] += reply.tokens_out
        dialogue.stop_reason = _ends_before(self.role, reply)
        if dialogue.stop_reason is not None:
            return
        turn: dict[str, Any] = {
            "turn": len(dialogue.turns),
            "role": self.role,
            "text": reply.text,
            "items": self._catalog.link(reply.text),
            "notes": dialogue.notes if self.role == USER else [],
            "n_tokens": reply.n_tokens,
            "mean_logprob": sum(reply.logprobs) / len(reply.logprobs) if reply.logprobs else None,
            "finish": reply.finish,
        }
        dialogue.turns.append(turn)
        self._view(dialogue).say(reply.text, reply.ids, turn["items"])
        dialogue.stop_reason = _ends_after(dialogue.turns, self.role, reply, self._parameters.max_turns)


class _User(_Party):
    role = USER

    def __init__(self, agent: Agent, population: Population, parameters: SimulationParameters) -> None:
        self._population = population
        super().__init__(agent, population.catalog, parameters)

    @cached_property
    def _opinions(self) -> UserOpinions:
        return self._population.opinions_for(self._parameters)

    def _view(self, dialogue: _Dialogue) -> UserView:
        return dialogue.user

    def hear(self, dialogue: _Dialogue) -> None:
        """With private notes on the items just named, each once: what the user remembers or thinks of them."""
        turn, notes = dialogue.turns[-1], {}
        for item in turn["items"] if self._parameters.memory else ():
            seen, liked = self._opinions.of(dialogue.profile_id, item["item_id"])
            notes[item["title"]] = {"item_id": item["item_id"], "title": item["title"], "seen": seen, "liked": liked}
        dialogue.notes = list(notes.values())
        dialogue.user.follow(turn, dialogue.notes)

    def _faults(self, dialogue: _Dialogue) -> Faults:
        history, notes, known = tuple(dialogue.turns), dialogue.notes, self._population
        profile, items = known.profile_rows[dialogue.profile_id], known.item_rows
        link, domain = self._catalog.link, self._catalog.domain

        def faults(text: str) -> int:
            turn = {"role": USER, "text": text, "items": link(text), "notes": notes}
            return checks.user_faults(turn, history, profile, items, domain)

        return faults


class _Recommender(_Party):
    """Gets no population: neither profiles nor opinions can reach it."""

    role = RECOMMENDER

    def __init__(self, agent: Agent, catalog: Catalog, parameters: SimulationParameters) -> None:
        super().__init__(agent, catalog, parameters)
        self._lookup = catalog.lookup if shows_facts(parameters) else {}

    def _view(self, dialogue: _Dialogue) -> RecommenderView:
        return dialogue.recommender

    def hear(self, dialogue: _Dialogue) -> None:
        """With facts of the items named since the recommender was last asked, each once."""
        turns = public(dialogue.turns)
        dialogue.recommender.follow(turns[-1], looked_up(turns, self._lookup))

    def _faults(self, dialogue: _Dialogue) -> Faults:
        history, link, credits = public(dialogue.turns), self._catalog.link, self._catalog.credits

        def faults(text: str) -> int:
            turn = {"role": RECOMMENDER, "text": text, "items": link(text)}
            return checks.recommender_faults(turn, history, credits)

        return faults


def public(turns: Sequence[Turn]) -> list[Turn]:
    """Rows of `turns` without the user's notes, for all that the recommender decides by."""
    return [{name: turn[name] for name in ("role", "text", "items")} for turn in turns]


def _ends_before(role: str, reply: Reply) -> str | None:
    """Why a dialogue ends without this utterance: there is none, its party leaves without a word, or nothing fits into
    the context any more."""
    if reply.finish == "failed":
        return "failed"
    if not reply.text and reply.finish in ("left", "end"):
        return f"{role}_left"
    return "context_full" if not reply.n_tokens and reply.finish == "context_full" else None


def _ends_after(turns: Sequence[Mapping[str, Any]], role: str, reply: Reply, max_turns: int) -> str | None:
    """Why a dialogue ends with the last of `turns`, which `reply` gave; None: it goes on."""
    if reply.finish == "context_full":
        return "context_full"
    if reply.finish == "left":
        return f"{role}_left"
    if _repeats(turns):
        return "repetition"
    return "max_turns" if len(turns) >= max_turns else None


def _repeats(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last utterance, of at least four words, is the same party's third of the same words."""
    last = turns[-1]
    words = plain(last["text"]).lower().split()
    same = [turn for turn in turns if turn["role"] == last["role"] and plain(turn["text"]).lower().split() == words]
    return len(words) >= 4 and len(same) >= 3
