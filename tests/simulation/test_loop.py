"""The lock-step loop with scripted models: barrier, stop rules, journal, independence of everything around."""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crslib import schemas
from crslib.agents.base import Ask, AskQueue, Reply, Sent
from crslib.config import ROOT, ProfileParameters, SimulationParameters
from crslib.data import tables
from crslib.dialogue import reactions
from crslib.dialogue.discriminator import Discriminator
from crslib.dialogue.views import UserView
from crslib.engines.loading import open_engines
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.recommender.prior import Utterance
from crslib.simulation import loop
from crslib.simulation.dialogues import Dialogues
from crslib.simulation.opening import local_agent
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users import profiles as profile_building
from tests.conftest import make_profiles
from tests.recommender.test_grounding import Even
from tests.support.agents import agents, simulate
from tests.support.domains import MOVIES
from tests.support.fuzz import tries

STYLES = "data/human/styles.parquet"
NO_RATINGS = pl.DataFrame(schema=dict(schemas.TABLES["ratings"]))
WORDS = [
    "Hi",
    "I like [[Heat (1995)]]",
    "Try [[Up (2009)]] or [[King Kong (1933)]]",
    "ok",
    "No [[Made Up (2001)]]!",
    "bye",
]


class Fixed:
    """Opinions from a table; counts how often each item was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        self.asked.append((profile_id, item_id))
        return (item_id == "1", None if item_id is None else item_id == "6")


def chatter(prompt: str, seed: int) -> str:
    """Draws words by seed and prompt, as a model does; leaves now and then."""
    rng = random.Random(f"{seed} {prompt}")
    return "" if rng.random() < 0.1 else f"{rng.choice(WORDS)} {rng.randrange(1000)}"


def run(folder: Path, items: pl.DataFrame, profiles: pl.DataFrame, *, width: int = 3, reply=chatter, **parameters):
    user, recommender = ScriptedEngine(reply, width), ScriptedEngine(reply, width)
    opinions = Fixed()
    with Run(folder).journal() as journal:
        dialogues = simulate(
            Population(profiles, items, NO_RATINGS, MOVIES, opinions),
            user,
            recommender,
            SimulationParameters(grounding="off", **parameters),
            journal,
        )
    return frames(dialogues), user, recommender, opinions


def frames(dialogues: Dialogues) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    return dialogues.dialogues, dialogues.turns, dialogues.prompts


def ids(n: int) -> list[str]:
    return [f"u{i:02}" for i in range(n)]


def test_tables_have_their_schemas_and_order(tmp_path: Path, items: pl.DataFrame) -> None:
    (dialogues, turns, prompts), user, recommender, _ = run(tmp_path, items, make_profiles(ids(9)))
    assert not user.alive
    assert not recommender.alive
    for name, frame in (("dialogues", dialogues), ("turns", turns), ("prompts", prompts)):
        schemas.check(frame, name)
    assert dialogues["dialogue_id"].to_list() == [f"{i}.0" for i in ids(9)]
    assert turns.equals(turns.sort("dialogue_id", "turn"))
    counted = turns.group_by("dialogue_id").len().sort("dialogue_id")
    expected = dialogues.filter(pl.col("n_turns") > 0).select(
        "dialogue_id", pl.col("n_turns").cast(pl.UInt32).alias("len")
    )
    assert counted.equals(expected)


def test_recommender_never_sees_anything_private(tmp_path: Path, items: pl.DataFrame) -> None:
    _, user, recommender, _ = run(tmp_path, items, make_profiles(ids(12)))
    private = [word for i in range(12) for word in (f"secret{i}secret", f"hush{i}hush")]
    private += ["About you", "Looking for", "seen, ", "not seen"]
    assert len(recommender.prompts) > 20
    for _, prompt in recommender.prompts:
        assert not [word for word in private if word in prompt]
    for key, prompt in user.prompts:
        own = int(key[1:3])
        assert f"secret{own}secret" in prompt
        assert not [i for i in range(12) if i != own and f"secret{i}secret" in prompt]


def test_opinions_are_asked_only_of_items_the_recommender_named(tmp_path: Path, items: pl.DataFrame) -> None:
    (_, turns, _), _, _, opinions = run(tmp_path, items, make_profiles(ids(12)))
    named = turns.filter(pl.col("role") == "recommender").explode("items").unnest("items").drop_nulls("title")
    pairs = {(row["dialogue_id"][:3], row["item_id"]) for row in named.iter_rows(named=True)}
    assert set(opinions.asked) <= pairs
    noted = turns.filter(pl.col("notes").list.len() > 0)
    assert noted.height > 5
    assert set(noted["role"]) == {"user"}


def test_notes_reach_the_user_only_and_memory_off_leaves_them_out(tmp_path: Path, items: pl.DataFrame) -> None:
    def reply(prompt: str, seed: int) -> str:
        return "" if prompt.count("assistant") > 3 else "See [[Heat (1995)]] [[Up (2009)]] [[Nope (1901)]]"

    _, user, recommender, _ = run(tmp_path / "a", items, make_profiles(["u1"]), reply=reply, opener="recommender")
    line = "(Heat (1995): seen, disliked; Up (2009): not seen, interested; Nope (1901): not seen)"
    assert line in user.prompts[0][1]
    assert not [prompt for _, prompt in recommender.prompts if "interested" in prompt]
    (_, turns, _), user, _, opinions = run(tmp_path / "b", items, make_profiles(["u1"]), reply=reply, memory=False)
    assert not [prompt for _, prompt in user.prompts if "seen," in prompt]
    assert opinions.asked == []
    assert turns["notes"].list.len().sum() == 0


def test_the_recommender_looks_up_what_was_mentioned_by_anyone(tmp_path: Path, items: pl.DataFrame) -> None:
    def reply(prompt: str, seed: int) -> str:
        said = prompt.count("assistant") > 1
        return (
            ""
            if prompt.count("assistant") > 3
            else "[[Up (2009)]] again"
            if said
            else "See [[Heat (1995)]] [[Nope (1901)]]"
        )

    heat = "(Heat (1995): action/crime, by Michael Mann, with Al Pacino, Robert De Niro)"
    given = {"reply": reply, "opener": "user", "facts": "always"}
    _, user, recommender, _ = run(tmp_path / "a", items, make_profiles(["u1"]), **given)
    prompts = [prompt for _, prompt in recommender.prompts]
    assert f"[[Nope (1901)]]\n{heat}" in prompts[0]  # what the user named; a title without an item has no facts
    assert prompts[-1].count("Al Pacino") == 1
    assert prompts[-1].count("\n(Up (2009): ") == 1  # what the recommender named, with the answer to it
    assert not [prompt for _, prompt in user.prompts if "Al Pacino" in prompt]
    _, _, recommender, _ = run(tmp_path / "b", items, make_profiles(["u1"]), reply=reply)
    assert not [prompt for _, prompt in recommender.prompts if "Al Pacino" in prompt]


def test_a_profile_writes_in_one_style_and_its_recommenders_in_their_own(tmp_path: Path, items: pl.DataFrame) -> None:
    (dialogues, *_), user, recommender, _ = run(
        tmp_path / "a", items, make_profiles(ids(20)), dialogues_per_profile=2, styles=STYLES
    )
    assert dialogues.group_by("profile_id").agg(pl.col("user_style").n_unique())["user_style"].to_list() == [1] * 20
    assert dialogues["user_style"].n_unique() > 5
    assert dialogues.filter(pl.col("dialogue_id").str.ends_with(".1"))["recommender_style"].n_unique() > 5
    for engine, role in ((user, "user"), (recommender, "recommender")):
        style = dict(dialogues.select("dialogue_id", f"{role}_style").iter_rows())
        for key, prompt in engine.prompts:
            assert prompt.split("How you write: ")[1].startswith(style[key])
    (dialogues, *_), user, _, _ = run(tmp_path / "b", items, make_profiles(ids(3)), styles="")
    assert dialogues["user_style"].to_list() == dialogues["recommender_style"].to_list() == [None] * 3
    assert not [prompt for _, prompt in user.prompts if "How you write" in prompt]


def test_prompts_record_exactly_what_was_fed(tmp_path: Path, items: pl.DataFrame) -> None:
    """Own utterances aside (they were made, not fed), the recorded pieces add up to the last whole prompt."""
    (_, turns, prompts), user, recommender, _ = run(tmp_path, items, make_profiles(ids(5)))
    for engine, role in ((user, "user"), (recommender, "recommender")):
        last = dict(engine.prompts)  # the last prompt of each dialogue
        own = {(t["dialogue_id"], t["turn"]): t["text"] for t in turns.filter(role=role).iter_rows(named=True)}
        for dialogue_id, whole in last.items():
            fed = prompts.filter(dialogue_id=dialogue_id, role=role).sort("turn")
            pieces = [row["text"] + own.get((dialogue_id, row["turn"]), "") for row in fed.iter_rows(named=True)]
            said_after = own.get((dialogue_id, fed["turn"].max()), "")
            assert "".join(pieces) == whole + said_after


@pytest.mark.parametrize(
    ("reply", "reason", "turns"),
    [
        (lambda prompt, seed: "" if "recommender." in prompt and "chatting" in prompt else "Hi there", "user_left", 1),
        (lambda prompt, seed: "" if "are a movie" in prompt and "Hi" in prompt else "Hi", "recommender_left", 2),
        (lambda prompt, seed: f"word {seed}", "max_turns", 6),
        (lambda prompt, seed: "the very same words again", "repetition", 5),
    ],
)
def test_stop_rules(tmp_path: Path, items: pl.DataFrame, reply, reason: str, turns: int) -> None:
    (dialogues, *_), *_ = run(tmp_path, items, make_profiles(["u1"]), reply=reply, opener="recommender", max_turns=6)
    assert dialogues["stop_reason"].to_list() == [reason]
    assert dialogues["n_turns"].to_list() == [turns]


def test_full_context_ends_the_dialogue(tmp_path: Path, items: pl.DataFrame) -> None:
    engine = ScriptedEngine(lambda prompt, seed: f"some words {seed}", 4, n_ctx=400)
    with Run(tmp_path).journal() as journal:
        parameters = SimulationParameters(max_turns=50, grounding="off")
        profiles = make_profiles(["u1"])
        other = ScriptedEngine(engine.reply, 4)
        population = Population(profiles, items, NO_RATINGS, MOVIES, Fixed())
        dialogues, turns, _ = frames(simulate(population, engine, other, parameters, journal))
    assert dialogues["stop_reason"].to_list() == ["context_full"]
    assert 1 <= turns.height < 50


def test_opener_shares(tmp_path: Path, items: pl.DataFrame) -> None:
    made, *_ = run(tmp_path / "m", items, make_profiles([f"u{i:03}" for i in range(300)]), max_turns=1)
    assert 0.55 < (made[0]["opener"] == "recommender").mean() < 0.75
    made, *_ = run(tmp_path / "u", items, make_profiles(ids(5)), opener="user", max_turns=1)
    assert set(made[1]["role"]) == {"user"}


@settings(max_examples=tries(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(10)), width=st.integers(1, 5), chosen=st.sets(st.integers(0, 9), min_size=1))
def test_a_dialogue_does_not_depend_on_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, items: pl.DataFrame, order: list[int], width: int, chosen: set[int]
) -> None:
    profiles = make_profiles(ids(10))
    (_, reference, _), *_ = run(tmp_path_factory.mktemp("a"), items, profiles)
    (_, shuffled, _), *_ = run(tmp_path_factory.mktemp("b"), items, profiles[order], width=width)
    assert shuffled.equals(reference)
    (_, part, _), *_ = run(tmp_path_factory.mktemp("c"), items, profiles[sorted(chosen)], width=width)
    assert part.equals(reference.filter(pl.col("dialogue_id").str.slice(1, 2).cast(pl.Int32).is_in(sorted(chosen))))


class Killed(BaseException):
    """A process that ends in the middle."""


@pytest.mark.parametrize("after", [1, 20, 45])
def test_killed_and_resumed_nothing_is_lost_or_doubled(tmp_path: Path, items: pl.DataFrame, after: int) -> None:
    profiles = make_profiles(ids(12))
    whole, *_ = run(tmp_path / "whole", items, profiles)
    calls = 0

    def dying(prompt: str, seed: int) -> str:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return chatter(prompt, seed)

    with pytest.raises(Killed):
        run(tmp_path / "cut", items, profiles, reply=dying)
    journal = tmp_path / "cut" / "journal.jsonl"
    before = journal.read_bytes().count(b"\n")
    journal.write_bytes(journal.read_bytes() + b'{"key": "torn off in the midd')
    told: list[tuple[int, int]] = []
    user, recommender = ScriptedEngine(chatter, 3), ScriptedEngine(chatter, 3)
    with Run(tmp_path / "cut").journal() as opened:
        dialogues = simulate(
            Population(profiles, items, NO_RATINGS, MOVIES, Fixed()),
            user,
            recommender,
            SimulationParameters(grounding="off"),
            opened,
            progress=lambda done, total: told.append((done, total)),
        )
    assert told[0] == (before, 12)
    assert told[-1] == (12, 12)
    assert all(a.equals(b) for a, b in zip(frames(dialogues), whole, strict=True))
    keys = [json.loads(line)["dialogue"]["dialogue_id"] for line in journal.read_text().splitlines()]
    assert sorted(keys) == sorted(set(keys)) == [f"{i}.0" for i in ids(12)]


class Failing(AskQueue):
    """Has no utterance."""

    identity: ClassVar = {"agent": "failing"}

    def answer(self, ask: Ask) -> Reply:
        return Reply("", Sent("", 0), 0, "failed", error=f"nothing for {ask.dialogue_id}")


def test_of_a_part_all_dialogues_may_fail_but_not_of_a_whole_run(tmp_path: Path, items: pl.DataFrame) -> None:
    """Whoever has the parts decides; of a whole run nine are not tried, and of one with other dialogues all are."""
    population = Population(make_profiles(ids(12)), items, NO_RATINGS, MOVIES, Fixed())
    parameters, told = SimulationParameters(max_turns=4), []
    names = [f"{i}.0" for i in ids(12)]
    with Run(tmp_path).journal() as journal:
        party = Failing(), Failing()
        made = loop.simulate(population, *party, parameters, journal, only=set(names[:9]), failed=told.append)
        assert made.failures["dialogue_id"].to_list() == sorted(row["dialogue_id"] for row in told) == names[:9]
        assert made.failures["error"][0] == "nothing for u00.0"
        assert not journal.records
        with pytest.raises(CrsError, match="8 dialogues failed and none ended: nothing for u"):
            loop.simulate(population, Failing(), Failing(), parameters, journal)
        with pytest.raises(CrsError, match="no dialogue could be simulated: nothing for u"):
            loop.simulate(population.with_profiles(make_profiles(ids(2))), Failing(), Failing(), parameters, journal)


@settings(max_examples=tries(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 4))
def test_dialogues_that_are_dealt_one_after_the_other_are_those_of_a_whole_run(
    tmp_path_factory: pytest.TempPathFactory, items: pl.DataFrame, dealt: list[int], first: int
) -> None:
    """`dealt`: how many at each call of `more`; when told to wait it gives all that are left."""
    left = [f"{i}.0" for i in ids(9)]
    (expected, turns, _), *_ = run(tmp_path_factory.mktemp("whole"), items, make_profiles(ids(9)))
    only, left = set(left[:first]), left[first:]
    sizes = iter(dealt)

    def more(wait: bool) -> list[str]:
        n = len(left) if wait else next(sizes, 0)
        given, left[:n] = left[:n], []
        return given

    population = Population(make_profiles(ids(9)), items, NO_RATINGS, MOVIES, Fixed())
    parameters = SimulationParameters(grounding="off")
    engines = ScriptedEngine(chatter, 3), ScriptedEngine(chatter, 3)
    with Run(tmp_path_factory.mktemp("dealt")).journal() as journal:
        party = agents(population, engines, parameters)
        made = loop.simulate(population, *party, parameters, journal, only=only, more=more)
    assert made.dialogues.drop("run_id").equals(expected.drop("run_id"))
    assert made.turns.equals(turns)


def test_other_parameters_do_not_reuse_the_journal(tmp_path: Path, items: pl.DataFrame) -> None:
    """A person at the notebook changes the seed and runs the cell again."""
    profiles = make_profiles(ids(4))
    (_, first, _), *_ = run(tmp_path, items, profiles, seed=1)
    (_, second, _), *_ = run(tmp_path, items, profiles, seed=2)
    assert not first.equals(second)
    (_, again, _), *_ = run(tmp_path, items, profiles, seed=1)
    assert again.equals(first)


def test_a_reply_that_contradicts_its_notes_is_drawn_again(
    tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[dict, tuple]] = []

    def fits(turn: dict, history: tuple, _: object) -> bool:
        asked.append((turn, history))
        return not turn["text"].endswith(("1", "3", "5", "7", "9"))

    monkeypatch.setattr(reactions, "fits", fits)

    def odd(folder: Path, times: int) -> float:
        (_, turns, _), *_ = run(folder, items, make_profiles(ids(24)), resample=times)
        noted = turns.filter(pl.col("notes").list.len() > 0)
        assert noted.height > 10
        return noted["text"].str.contains("[13579]$").mean()

    assert odd(tmp_path / "once", 1) > 0.2
    assert not asked
    assert odd(tmp_path / "often", 12) < 0.05
    noted = [(turn, history) for turn, history in asked if turn["notes"]]
    assert noted
    assert all(history[-1]["role"] == "recommender" for _, history in noted)


def test_resampling_holds_the_user_to_its_notes(tmp_path: Path, items: pl.DataFrame) -> None:
    """The rule is the loop's own: no caller can leave it out. The notes say that Heat was seen and disliked."""

    def reply(prompt: str, seed: int) -> str:
        if "About you" not in prompt:
            return "" if prompt.count("assistant") > 6 else "Have you seen [[Heat (1995)]]?"
        return ("I loved it!", "I hated it.", "I have not seen it.")[seed % 3]

    def n_contrary(folder: Path, times: int) -> int:
        (_, turns, _), *_ = run(
            folder, items, make_profiles(ids(9)), reply=reply, opener="recommender", max_turns=4, resample=times
        )
        rows = turns.sort("dialogue_id", "turn").to_dicts()
        pairs = [(turn, before) for before, turn in itertools.pairwise(rows) if turn["notes"]]
        return sum(not reactions.fits(turn, [before], MOVIES) for turn, before in pairs)

    assert n_contrary(tmp_path / "once", 1) > 3
    assert n_contrary(tmp_path / "often", 12) == 0


def test_a_recommender_draws_a_false_fact_again(tmp_path: Path, items: pl.DataFrame) -> None:
    def reply(prompt: str, seed: int) -> str:
        if "About you" in prompt:
            return "" if prompt.count("assistant") > 4 else "What about [[Heat (1995)]]? Who is in it?"
        return ("It stars Al Pacino", "It stars Tom Hanks", "It came out in 2004")[seed % 3]

    def false(folder: Path, **parameters: Any) -> float:
        (_, turns, _), *_ = run(folder, items, make_profiles(ids(9)), reply=reply, opener="user", **parameters)
        said = turns.filter(role="recommender")["text"]
        assert len(said) > 10
        return (said != "It stars Al Pacino").mean()

    assert false(tmp_path / "once", resample=1) > 0.3
    assert false(tmp_path / "often", resample=12) == 0


def test_what_the_recommender_checks_and_looks_up_has_no_notes(
    tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def faults(turn: dict, history: list[dict], credits: object) -> int:
        given.extend(history)
        return 0

    def looked_up(turns: list[dict], lookup: object) -> list:
        given.extend(turns)
        return []

    monkeypatch.setattr(loop.checks, "recommender_faults", faults)
    monkeypatch.setattr(loop, "looked_up", looked_up)
    (_, turns, _), *_ = run(tmp_path, items, make_profiles(ids(9)), facts="always")
    assert turns.filter(pl.col("notes").list.len() > 0).height > 5
    assert len(given) > 20
    assert {name for turn in given for name in turn} == {"role", "text", "items"}


def test_discriminators_weigh_the_draws_of_either_role_among_those_that_fit(
    tmp_path: Path, items: pl.DataFrame
) -> None:
    """The user's has most weight on what its notes forbid. Another discriminator simulates anew."""
    judges = tmp_path / "judges"
    Discriminator(0.0, {"loved": 9.0, "hated": 1.0}).write(judges / "user.json")
    Discriminator(0.0, {"well": 9.0}).write(judges / "recommender.json")

    def reply(prompt: str, seed: int) -> str:
        if "About you" not in prompt:
            return f"{('well', 'so')[seed % 2]} [[Heat (1995)]]"
        return ("I loved it!", "I hated it.", "I have not seen it.", "Yes.")[seed % 4]

    def texts(folder: Path, times: int, discriminators: str, width: int = 3) -> pl.DataFrame:
        given = {"resample": times, "discriminators": discriminators, "opener": "recommender", "max_turns": 2}
        (_, turns, _), *_ = run(folder, items, make_profiles(ids(30)), reply=reply, width=width, **given)
        return turns

    said = texts(tmp_path / "weighed", 12, str(judges))
    recommender, user = (said.filter(role=role)["text"] for role in ("recommender", "user"))
    assert recommender.str.contains("well").all()
    assert set(user) <= {"I hated it.", "Yes."}, "the notes say that it was seen and not liked"
    assert user.str.contains("hated").mean() > 0.6
    free = texts(tmp_path / "free", 12, "")
    assert 0.2 < free.filter(role="recommender")["text"].str.contains("well").mean() < 0.8
    assert texts(tmp_path / "wide", 12, str(judges), width=7).equals(said), "whatever is drawn beside it"
    Discriminator(0.0, {"so": 9.0}).write(judges / "recommender.json")
    assert (
        not texts(tmp_path / "weighed", 12, str(judges)).filter(role="recommender")["text"].str.contains("well").any()
    )


def test_a_missing_discriminator_is_named(tmp_path: Path, items: pl.DataFrame) -> None:
    with pytest.raises(CrsError, match=r"cannot read the discriminator .*user\.json: No such file"):
        run(tmp_path, items, make_profiles(ids(1)), resample=2, discriminators=str(tmp_path))


def test_several_dialogues_per_profile_differ(tmp_path: Path, items: pl.DataFrame) -> None:
    (dialogues, turns, _), *_ = run(tmp_path, items, make_profiles(ids(3)), dialogues_per_profile=2)
    assert dialogues["dialogue_id"].to_list() == [f"{i}.{k}" for i in ids(3) for k in range(2)]
    texts = [turns.filter(dialogue_id=f"u00.{k}")["text"].to_list() for k in range(2)]
    assert texts[0] != texts[1]


def test_a_journal_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crslib.files.time.sleep", lambda seconds: None)
    with Run(tmp_path).journal(), pytest.raises(CrsError, match="in use by another process"), Run(tmp_path).journal():
        pass


def test_inputs_have_no_way_to_held_out_items() -> None:
    """The barrier: no argument, import or word of the simulation leads to the holdouts table."""
    for name in ("loop", "dialogues", "population"):
        source = (ROOT / "crslib/simulation" / f"{name}.py").read_text(encoding="utf-8")
        assert "holdout" not in source
    assert not {"rating", "liked", "item_id"} & set(schemas.TABLES["profiles"])


def test_the_recommenders_side_of_the_loop_is_given_nothing_of_a_profile(items: pl.DataFrame) -> None:
    """Neither directly nor through anything that it holds."""
    population = Population(make_profiles(["u1"]), items, NO_RATINGS, MOVIES, Fixed())
    parameters = SimulationParameters(grounding="off")
    agent = local_agent(ScriptedEngine(chatter), "recommender", population, parameters)
    party = loop._Recommender(agent, population.catalog, parameters)
    reached = reachable(party)
    for held in (population, population.profiles, population.opinions):
        assert id(held) not in reached
    assert id(population.items) in reached


def test_titles_that_both_parties_share_lead_the_recommender_to_no_person(items: pl.DataFrame) -> None:
    population, engine = Population(make_profiles(["u1"]), items, NO_RATINGS, MOVIES, Fixed()), Even()
    parameters = SimulationParameters(title_model=0, title_base=0)
    titles = population.catalog_titles(engine, parameters)
    of_user = population.of_user(engine, parameters, titles)
    assert of_user is not None
    of_user(population.view(population.profiles.row(0, named=True))).allowed(list(b"I love [["))
    reached = reachable(population.of_recommender(engine, parameters, titles))
    for held in (population, population.profiles, population.profile_rows, population.opinions, of_user):
        assert id(held) not in reached
    assert id(titles) in reached and id(titles) in reachable(of_user)


def reachable(start: object) -> dict[int, object]:
    """All that an object holds: attributes, parts of containers, what functions close over, what methods belong to."""
    waiting, reached = [start], {}
    while waiting:
        held = waiting.pop()
        if id(held) in reached:
            continue
        reached[id(held)] = held
        if isinstance(held, dict | list | tuple | set):
            waiting += [*held, *(held.values() if isinstance(held, dict) else ())]
        for cell in getattr(held, "__closure__", None) or ():
            waiting.append(cell.cell_contents)
        waiting += [*getattr(held, "__dict__", {}).values(), getattr(held, "__self__", None)]
    return reached


class Spy(AskQueue):
    """Keeps what it is asked, and recommends."""

    identity: ClassVar = {"agent": "spy"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.asks = text, []

    def answer(self, ask: Ask) -> Reply:
        self.asks.append((ask, set(reachable(ask)), [held for held in reachable(ask).values() if type(held) is str]))
        return Reply(self.text, Sent("", 0), 1)


def test_what_is_asked_of_a_recommender_leads_to_nothing_private(tmp_path: Path, items: pl.DataFrame) -> None:
    """Neither its view nor the check of its words, through anything that they hold; the user's do."""
    population = Population(make_profiles(ids(3)), items, NO_RATINGS, MOVIES, Fixed())
    user, recommender = Spy("I see"), Spy("Try [[Up (2009)]] or [[Heat (1995)]]")
    with Run(tmp_path).journal() as journal:
        loop.simulate(population, user, recommender, SimulationParameters(max_turns=4), journal)
    assert len(recommender.asks) == len(user.asks) == 6
    for _, held, texts in recommender.asks:
        assert not held & {id(one) for one in (population, population.profiles, population.opinions)}
        assert not [text for text in texts if "secret" in text or "hush" in text]
    assert not [one for ask, *_ in recommender.asks for one in reachable(ask).values() if isinstance(one, UserView)]
    assert not [
        one for ask, *_ in recommender.asks for one in reachable(ask).values() if type(one) is str and one == "notes"
    ]
    assert all([text for text in texts if "secret" in text] for *_, texts in user.asks)


class Eavesdropper:
    """In the place of a grounding: keeps all that it is given of a dialogue."""

    def __init__(self) -> None:
        self.given: list[tuple[object, ...]] = []

    def constraint(self, *given: object) -> None:
        self.given.append(given)


def test_grounding_hears_what_was_said_and_nothing_private(tmp_path: Path, items: pl.DataFrame) -> None:
    ear, heard_by_names = Eavesdropper(), []
    population = Population(make_profiles(ids(12)), items, NO_RATINGS, MOVIES, Fixed())
    population.catalog_titles = lambda *given: None
    population.grounding = lambda *given: ear
    population.of_user = lambda *given: None

    class Names:
        def constraint(self, role: str, turns: Sequence[Mapping[str, Any]], titles: Any) -> Any:
            heard_by_names.append((role, [dict(turn) for turn in turns]))
            return titles

    population.persons = lambda engine: Names()
    with Run(tmp_path).journal() as journal:
        parties = ScriptedEngine(chatter), ScriptedEngine(chatter)
        turns = simulate(population, *parties, SimulationParameters(), journal).turns
    assert turns["notes"].list.len().sum() > 5
    assert sum(len(history) for (history,) in ear.given) > 50
    for utterance in (utterance for (history,) in ear.given for utterance in history):
        assert type(utterance) is Utterance
        assert all(item is None or isinstance(item, str) for item in utterance.items)
    assert not any(word in str(ear.given) for word in ("secret", "hush", "seen", "liked"))
    assert {role for role, _ in heard_by_names} == {"recommender"}
    assert all(turn.keys() == {"role", "text", "items"} for _, rows in heard_by_names for turn in rows)
    assert not any(word in str(heard_by_names) for word in ("secret", "hush", "seen", "liked"))


# ── the real model ──


@pytest.fixture(scope="module")
def real():
    """The built-in data of four people, and a function that simulates some of them with the real models."""
    built = profile_building.build(*tables.load(ROOT / "data"), ProfileParameters(n_profiles=4), MOVIES)
    population = Population(built.profiles, built.items, built.training, MOVIES)

    def talk(folder: Path, chosen: pl.DataFrame, progress=lambda done, total: None, threads: int = 1, **parameters):
        titles = {"title_model": 0, "title_base": 0}  # by the prior alone: reading all titles takes minutes
        tiny = SimulationParameters(
            weights="Q8_0", max_turns=5, max_tokens=12, n_ctx=512, width=2, threads=threads, **titles | parameters
        )
        with open_engines(tiny) as parties, Run(folder).journal() as journal:
            return frames(simulate(population.with_profiles(chosen), *parties, tiny, journal, progress))

    return population.profiles, talk


@pytest.fixture(scope="module")
def whole(real, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, ...]:
    profiles, talk = real
    return talk(tmp_path_factory.mktemp("whole"), profiles)


@pytest.mark.model
@pytest.mark.parametrize("case", ["shuffled, two threads", "shards", "killed"])
def test_real_dialogues_depend_on_nothing_around_them(real, whole, tmp_path: Path, case: str) -> None:
    profiles, talk = real
    if case == "shards":
        shards = [talk(tmp_path / str(i), profiles[i::2]) for i in range(2)]
        found = tuple(pl.concat(parts).sort(parts[0].columns[:2]) for parts in zip(*shards, strict=True))
        whole = tuple(frame.sort(frame.columns[:2]) for frame in whole)
    elif case == "killed":

        def die(done: int, total: int) -> None:
            if done == 2:
                raise Killed

        with pytest.raises(Killed):
            talk(tmp_path / "cut", profiles, progress=die)
        found = talk(tmp_path / "cut", profiles)
    else:
        found = talk(tmp_path / "shuffled", profiles[[2, 1, 3, 0]], threads=2)
    for made, expected in zip(found, whole, strict=True):
        assert made.equals(expected)  # text, items and log-probabilities, to the last bit


@pytest.mark.model
@pytest.mark.parametrize("grounding", ["prior", "catalogue"])
def test_grounded_recommenders_name_real_titles_once(real, whole, tmp_path: Path, grounding: str) -> None:
    profiles, talk = real
    _, turns, _ = whole if grounding == "prior" else talk(tmp_path, profiles, grounding=grounding)
    named = turns.filter(role="recommender").explode("items").unnest("items").drop_nulls("title")
    assert named.height > 3
    assert named["item_id"].null_count() == 0
    assert not named.select("dialogue_id", "item_id").is_duplicated().any()


def test_dialogues_in_which_nobody_says_a_word_are_no_success(tmp_path: Path, items: pl.DataFrame) -> None:
    population, parameters = (
        Population(make_profiles(ids(3)), items, NO_RATINGS, MOVIES),
        SimulationParameters(opener="user"),
    )
    silent = ScriptedEngine(lambda prompt, seed: "")
    parameters = parameters.model_copy(update={"grounding": "off"})
    for _ in range(2):
        with Run(tmp_path).journal() as journal:
            said = simulate(population, silent, silent, parameters, journal)
        with pytest.raises(CrsError, match=r"nobody says a word in any of 3 dialogues \(user_left: 3\); give other"):
            said.write(Run(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]
