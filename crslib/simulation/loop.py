"""The loop: two models talk, turn by turn, many dialogues side by side, and nobody knows a target.

Its inputs have no column and no parameter through which a held-out item could come. The recommender's half of a
dialogue is a `RecommenderView`, made from nothing; what the user holds is its `UserKnowledge` and its `Opinions`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from crslib import schemas
from crslib.config import SimulationParameters
from crslib.data.catalog import Catalog
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, plain
from crslib.dialogue.views import Note, RecommenderView, UserKnowledge, UserView
from crslib.engines.base import Completion, Engine, Request
from crslib.engines.resampling import Resampling
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest, sources_sha256
from crslib.recommender.grounding import Grounding
from crslib.recommender.prior import Utterance
from crslib.store import Journal, Progress, no_progress

HUMAN_RECOMMENDER_OPENS = 0.65  # share of ReDial dialogues in which the recommender speaks first (DESIGN §4)
ALIVE_PER_ROW = 2.5  # dialogues alive per row of an engine: more cost memory, fewer leave rows or the feeder idle

# Whose sources decide what is said; those beside carry parameters, tables and files and change no word.
_AT_WORK = ("crslib.simulation.loop", "crslib.users.opinions")
BESIDE = frozenset(f"crslib.{name}" for name in ("config", "errors", "identity", "schemas", "stats", "store"))


Fits = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], bool]


class UserOpinions(Protocol):
    """What a user remembers or thinks of an item it has just met."""

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        """(seen, liked or interested) for an item of the catalogue, or for a title that is in none (`None`)."""
        ...


@dataclass
class _Dialogue:
    dialogue_id: str
    profile_id: str
    opener: str
    user: UserView
    recommender: RecommenderView
    turns: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)  # of the items in the recommender's last utterance
    stop_reason: str | None = None

    @property
    def speaker(self) -> str:
        """Whose turn it is: the parties alternate from the opener."""
        even = len(self.turns) % 2 == 0
        return self.opener if even else (USER if self.opener == RECOMMENDER else RECOMMENDER)


def user_view(profile: Mapping[str, Any]) -> UserView:
    """What the user of a row of table `profiles` sees before the first word: all that it may know."""
    return UserView(UserKnowledge(profile["summary"], profile["attributes"]))


def simulate(
    profiles: pl.DataFrame,
    opinions: UserOpinions,
    catalog: Catalog,
    user: Engine,
    recommender: Engine,
    parameters: SimulationParameters,
    run_id: str,
    journal: Journal,
    grounding: Grounding | None = None,
    progress: Progress = no_progress,
    fits: Fits = lambda turn, said: True,
    view: Callable[[Mapping[str, Any]], UserView] = user_view,
    behind: Mapping[str, Any] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Dialogues of every profile (table `profiles`), as tables `dialogues`, `turns` and `prompts`, sorted.

    A dialogue depends on (seed, profile, condition, engine identity) only. Each is appended to `journal` when it
    ends; those already there are not made again. `progress(done, total)` is told of every dialogue that ends.
    `grounding` restricts what the recommender names; it has to be there unless `parameters.grounding` is off.
    `fits`, for `parameters.resample` above 1, judges a user's reply to items that it has notes on, a row of `turns`, in
    view of the rows before it: what does not fit is drawn again. `view` makes the user's view from its row of
    `profiles`; a condition in which users know more than they may brings its own. `behind`: hashes of what `opinions`,
    `catalog`, `grounding` and `view` were made from; what a journal holds is taken only where they are the same.
    Raises `CrsError` when an engine fails or the journal cannot be written; what had ended before is kept.
    """
    if (grounding is None) != (parameters.grounding == "off"):
        raise CrsError(f"grounding = {parameters.grounding!r} does not go with what was given; use open_grounding")
    key = talk_key(parameters, profiles, (user, recommender), behind)
    journal.keep(key)
    wanted = {
        f"{profile['profile_id']}.{copy}": profile
        for profile in profiles.sort("profile_id").iter_rows(named=True)
        for copy in range(parameters.dialogues_per_profile)
    }
    done = {record["dialogue"]["dialogue_id"] for record in journal.records}
    pending = deque(sorted(wanted.keys() - done))
    alive: dict[str, _Dialogue] = {}
    voices = {
        USER: _UserVoice(Resampling(user, parameters.resample), fits, catalog),
        RECOMMENDER: _Voice(recommender, RECOMMENDER, grounding),
    }
    room = round(ALIVE_PER_ROW * max(user.width, recommender.width))
    progress(len(wanted) - len(pending), len(wanted))
    while pending or alive:
        while pending and len(alive) < room:
            dialogue_id = pending.popleft()
            alive[dialogue_id] = _start(dialogue_id, wanted[dialogue_id], view, parameters)
            voices[alive[dialogue_id].speaker].ask(alive[dialogue_id], parameters)
        # Whoever has more to do goes on: with more dialogues alive than rows, those of that engine are nearly all busy
        # and the feeder has something in hand.
        voice = max(voices.values(), key=lambda voice: voice.engine.pending)
        for dialogue_id, completion in voice.engine.step():
            dialogue = alive[dialogue_id]
            voice.answer(dialogue, completion)
            _hear(dialogue, voice.role, completion, voice.engine, catalog, opinions, parameters)
            if dialogue.stop_reason is None:
                voices[dialogue.speaker].ask(dialogue, parameters)
                continue
            user.release(dialogue_id)
            recommender.release(dialogue_id)
            journal.append({"key": key, **_record(alive.pop(dialogue_id), parameters)})
            progress(len(wanted) - len(pending) - len(alive), len(wanted))
    return tables(journal.records, run_id, parameters.condition)


def talk_key(
    parameters: SimulationParameters,
    profiles: pl.DataFrame,
    engines: Sequence[Engine],
    behind: Mapping[str, Any] | None = None,
) -> str:
    """What stands for all that decides the words of dialogues: parameters but for the condition's name, table
    `profiles`, engines, what lies behind the other inputs, and the sources that are at work."""
    given = {name: value for name, value in parameters.identity().items() if name != "condition"}
    engine = [dict(engine.identity) for engine in engines]
    return digest([given, profiles.to_dicts(), engine, dict(behind or {}), sources_sha256(_AT_WORK, BESIDE)], "talk")


def tables(
    records: Iterable[Mapping[str, Any]], run_id: str, condition: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Journal records as tables `dialogues`, `turns` and `prompts` of a run, sorted by dialogue and turn."""
    records = sorted(records, key=lambda record: record["dialogue"]["dialogue_id"])
    heads = [{**record["dialogue"], "run_id": run_id, "condition": condition} for record in records]
    dialogues = pl.DataFrame(heads, schema=dict(schemas.TABLES["dialogues"]))
    turns, prompts = (
        pl.DataFrame([row for r in records for row in r[name]], schema=dict(schemas.TABLES[name]))
        for name in ("turns", "prompts")
    )
    return dialogues, turns, prompts


class _Voice:
    """One role's engine with its chat template."""

    def __init__(self, engine: Engine, role: str, grounding: Grounding | None = None) -> None:
        self.engine, self.role, self._grounding = engine, role, grounding
        self._template = ChatTemplate(*engine.chat_template)
        self._asked: dict[str, Request] = {}
        # What every dialogue of this role begins with, in tokens.
        constant = RecommenderView() if role == RECOMMENDER else UserView(UserKnowledge("", ""))
        self._beginning = self._template.encode(constant.messages, engine)

    def ask(self, dialogue: _Dialogue, parameters: SimulationParameters) -> None:
        """Requests the role's next utterance, from its view alone."""
        view = dialogue.user if self.role == USER else dialogue.recommender
        prompt = tuple(self._template.encode(view.messages, self.engine))
        seed = derive_seed(parameters.seed, dialogue.dialogue_id, self.role, len(dialogue.turns))
        n_shared = next(
            (i for i, (a, b) in enumerate(zip(prompt, self._beginning, strict=False)) if a != b), len(prompt) - 1
        )
        constraint = self._grounding and self._grounding.constraint(_said(dialogue.turns), parameters.temperature)
        request = Request(dialogue.dialogue_id, prompt, seed, constraint, n_shared)
        self._asked[dialogue.dialogue_id] = request
        self._submit(request, dialogue)

    def _submit(self, request: Request, dialogue: _Dialogue) -> None:
        self.engine.submit(request)

    def answer(self, dialogue: _Dialogue, completion: Completion) -> None:
        """Notes for the audit what was newly fed before an utterance."""
        fed = self._asked.pop(dialogue.dialogue_id).prompt[completion.n_cached :]
        text = self.engine.decode(fed)
        dialogue.prompts.append({"turn": len(dialogue.turns), "role": self.role, "text": text, "n_tokens": len(fed)})


class _UserVoice(_Voice):
    """The user's: a reply that does not fit its notes is drawn again."""

    def __init__(self, engine: Resampling, fits: Fits, catalog: Catalog) -> None:
        super().__init__(engine, USER)
        self.engine: Resampling = engine
        self._fits, self._catalog = fits, catalog

    def _submit(self, request: Request, dialogue: _Dialogue) -> None:
        said, notes = tuple(dialogue.turns), dialogue.notes

        def accept(made: Completion) -> bool:
            text = clean(self.engine.decode(made.ids))
            return self._fits({"role": USER, "text": text, "items": self._catalog.link(text), "notes": notes}, said)

        self.engine.submit(request, accept if notes else lambda made: True)


def _said(turns: Sequence[Mapping[str, Any]]) -> list[Utterance]:
    """What both parties have heard. The rows of `turns` also hold the user's notes; those must not get further."""
    return [Utterance(t["role"], t["text"], [item["item_id"] for item in t["items"]]) for t in turns]


def _start(
    dialogue_id: str,
    profile: Mapping[str, Any],
    view: Callable[[Mapping[str, Any]], UserView],
    parameters: SimulationParameters,
) -> _Dialogue:
    opener = parameters.opener
    if opener == "mixed":
        chance = derive_seed(parameters.seed, dialogue_id, "opener") / 0xFFFFFFFF
        opener = RECOMMENDER if chance < HUMAN_RECOMMENDER_OPENS else USER
    return _Dialogue(dialogue_id, profile["profile_id"], opener, view(profile), RecommenderView())


def _hear(
    dialogue: _Dialogue,
    role: str,
    completion: Completion,
    engine: Engine,
    catalog: Catalog,
    opinions: UserOpinions,
    parameters: SimulationParameters,
) -> None:
    """Passes an utterance on to the other party, or ends the dialogue."""
    text = clean(engine.decode(completion.ids))
    if not text and role == USER and completion.finish == "end":
        dialogue.stop_reason = "user_left"
        return
    if completion.finish == "left":
        dialogue.stop_reason = f"{role}_left"
        return
    if not completion.ids and completion.finish == "context_full":
        dialogue.stop_reason = "context_full"
        return
    items = catalog.link(text)
    dialogue.turns.append(
        {
            "turn": len(dialogue.turns),
            "role": role,
            "text": text,
            "items": items,
            "notes": dialogue.notes if role == USER else [],
            "n_tokens": len(completion.ids),
            "mean_logprob": sum(completion.logprobs) / len(completion.logprobs) if completion.logprobs else None,
            "finish": completion.finish,
        }
    )
    if role == USER:
        dialogue.user.say(text, completion.ids)
        dialogue.recommender.hear(text)
        dialogue.notes = []
    else:
        dialogue.recommender.say(text, completion.ids)
        dialogue.notes = _notes(items, dialogue.profile_id, opinions) if parameters.memory else []
        dialogue.user.hear(text, [Note(note["title"], note["seen"], note["liked"]) for note in dialogue.notes])
    if completion.finish == "context_full":
        dialogue.stop_reason = "context_full"
    elif _repeats(dialogue.turns):
        dialogue.stop_reason = "repetition"
    elif len(dialogue.turns) >= parameters.max_turns:
        dialogue.stop_reason = "max_turns"


def _notes(items: list[dict[str, Any]], profile_id: str, opinions: UserOpinions) -> list[dict[str, Any]]:
    notes = {}
    for item in items:
        seen, liked = opinions.of(profile_id, item["item_id"])
        notes[item["title"]] = {"item_id": item["item_id"], "title": item["title"], "seen": seen, "liked": liked}
    return list(notes.values())


def _repeats(turns: list[dict[str, Any]]) -> bool:
    """Whether the last utterance, of at least four words, is the same party's third of the same words."""
    last = turns[-1]
    words = plain(last["text"]).lower().split()
    same = [t for t in turns if t["role"] == last["role"] and plain(t["text"]).lower().split() == words]
    return len(words) >= 4 and len(same) >= 3


def _record(dialogue: _Dialogue, parameters: SimulationParameters) -> dict[str, Any]:
    key = {"dialogue_id": dialogue.dialogue_id}
    return {
        "dialogue": {
            **key,
            "profile_id": dialogue.profile_id,
            "opener": dialogue.opener,
            "seed": parameters.seed,
            "stop_reason": dialogue.stop_reason,
            "n_turns": len(dialogue.turns),
        },
        "turns": [{**key, **turn} for turn in dialogue.turns],
        "prompts": [{**key, **prompt} for prompt in dialogue.prompts],
    }
