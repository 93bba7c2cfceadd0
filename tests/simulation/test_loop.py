"""The lock-step loop with scripted models: barrier, stop rules, journal, independence of everything around."""

import json
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crslib import schemas
from crslib.config import ROOT, ProfileParameters, SimulationParameters
from crslib.data import tables
from crslib.data.catalog import Catalog
from crslib.engines.loading import open_engines
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.recommender.grounding import open_grounding
from crslib.recommender.prior import Utterance
from crslib.simulation import loop as simulation
from crslib.simulation.loop import simulate
from crslib.store import Run
from crslib.users import profiles as profile_building
from crslib.users.opinions import Opinions
from tests.conftest import make_profiles

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
        made = simulate(
            profiles,
            opinions,
            Catalog(items),
            user,
            recommender,
            SimulationParameters(grounding="off", **parameters),
            "r",
            journal,
        )
    return made, user, recommender, opinions


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
        dialogues, turns, _ = simulate(profiles, Fixed(), Catalog(items), engine, other, parameters, "r", journal)
    assert dialogues["stop_reason"].to_list() == ["context_full"]
    assert 1 <= turns.height < 50


def test_opener_shares(tmp_path: Path, items: pl.DataFrame) -> None:
    made, *_ = run(tmp_path / "m", items, make_profiles([f"u{i:03}" for i in range(300)]), max_turns=1)
    assert 0.55 < (made[0]["opener"] == "recommender").mean() < 0.75
    made, *_ = run(tmp_path / "u", items, make_profiles(ids(5)), opener="user", max_turns=1)
    assert set(made[1]["role"]) == {"user"}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    original = simulation.simulate
    user, recommender = ScriptedEngine(chatter, 3), ScriptedEngine(chatter, 3)
    with Run(tmp_path / "cut").journal() as opened:
        made = original(
            profiles, Fixed(), Catalog(items), user, recommender, SimulationParameters(grounding="off"), "r", opened,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
    assert told[0] == (before, 12)
    assert told[-1] == (12, 12)
    assert all(a.equals(b) for a, b in zip(made, whole, strict=True))
    keys = [json.loads(line)["dialogue"]["dialogue_id"] for line in journal.read_text().splitlines()]
    assert sorted(keys) == sorted(set(keys)) == [f"{i}.0" for i in ids(12)]


def test_other_parameters_do_not_reuse_the_journal(tmp_path: Path, items: pl.DataFrame) -> None:
    """A person at the notebook changes the seed and runs the cell again."""
    profiles = make_profiles(ids(4))
    (_, first, _), *_ = run(tmp_path, items, profiles, seed=1)
    (_, second, _), *_ = run(tmp_path, items, profiles, seed=2)
    assert not first.equals(second)
    (_, again, _), *_ = run(tmp_path, items, profiles, seed=1)
    assert again.equals(first)


def test_what_a_run_beside_it_has_made_is_taken(
    tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another condition's name, and as far as the other got; not when anything that decides the words differs."""
    profiles = make_profiles(ids(4))

    def talk(name: str, behind: str = "ratings of May", **parameters) -> tuple[pl.DataFrame, pl.DataFrame, int]:
        asked = ScriptedEngine(chatter, 3), ScriptedEngine(chatter, 3)
        reached: list[int] = []
        with Run(tmp_path / name).journal(beside=True) as journal:
            dialogues, turns, _ = simulate(
                profiles, Fixed(), Catalog(items), *asked, SimulationParameters(grounding="off", **parameters), name,
                journal, progress=lambda done, total: reached.append(done), behind={"ratings": behind},
            )  # fmt: skip
        return dialogues, turns, reached[0]

    _, first, found = talk("a")
    assert found == 0
    dialogues, again, found = talk("b", condition="another name")
    assert found == 4
    assert again.equals(first)
    assert set(dialogues.select("run_id", "condition").rows()) == {("b", "another name")}
    journal = tmp_path / "a" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]) + b"torn")
    (tmp_path / "b" / "journal.jsonl").unlink()
    assert talk("c")[1:][1] == 2
    assert talk("d", behind="ratings of June")[2] == 0
    assert talk("e", seed=1)[2] == 0
    monkeypatch.setattr("crslib.simulation.loop.sources_sha256", lambda *modules: {"crslib.simulation.loop": "edited"})
    assert talk("f")[2] == 0


def test_a_reply_that_does_not_fit_its_notes_is_drawn_again(tmp_path: Path, items: pl.DataFrame) -> None:
    asked: list[tuple[dict, tuple]] = []

    def fits(turn: dict, said: tuple) -> bool:
        asked.append((turn, said))
        return not turn["text"].endswith(("1", "3", "5", "7", "9"))

    def talk(folder: Path, times: int) -> pl.DataFrame:
        user, recommender = ScriptedEngine(chatter), ScriptedEngine(chatter)
        parameters = SimulationParameters(grounding="off", resample=times)
        with Run(folder).journal() as journal:
            return simulate(
                make_profiles(ids(9)), Fixed(), Catalog(items), user, recommender, parameters, "r", journal, fits=fits
            )[1]  # fmt: skip

    def odd(turns: pl.DataFrame) -> float:
        noted = turns.filter(pl.col("notes").list.len() > 0)
        assert noted.height > 10
        return noted["text"].str.contains("[13579]$").mean()

    assert odd(talk(tmp_path / "once", 1)) > 0.2
    assert not asked
    assert odd(talk(tmp_path / "often", 12)) < 0.05
    assert all(turn["notes"] and said[-1]["role"] == "recommender" for turn, said in asked)


def test_several_dialogues_per_profile_differ(tmp_path: Path, items: pl.DataFrame) -> None:
    (dialogues, turns, _), *_ = run(tmp_path, items, make_profiles(ids(3)), dialogues_per_profile=2)
    assert dialogues["dialogue_id"].to_list() == [f"{i}.{k}" for i in ids(3) for k in range(2)]
    texts = [turns.filter(dialogue_id=f"u00.{k}")["text"].to_list() for k in range(2)]
    assert texts[0] != texts[1]


def test_a_journal_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crslib.store.time.sleep", lambda seconds: None)
    with Run(tmp_path).journal(), pytest.raises(CrsError, match="in use by another process"), Run(tmp_path).journal():
        pass


def test_inputs_have_no_way_to_held_out_items() -> None:
    """The barrier: no argument, import or word of the simulation leads to the holdouts table."""
    source = Path(simulation.__file__).read_text(encoding="utf-8")
    assert "holdout" not in source.replace("held-out item", "")
    assert not {"rating", "liked", "item_id"} & set(schemas.TABLES["profiles"])


class Eavesdropper:
    """In the place of a grounding: keeps all that it is given of a dialogue."""

    def __init__(self) -> None:
        self.given: list[tuple[object, ...]] = []

    def constraint(self, *given: object) -> None:
        self.given.append(given)


def test_grounding_hears_what_was_said_and_nothing_private(tmp_path: Path, items: pl.DataFrame) -> None:
    party, ear = ScriptedEngine(chatter), Eavesdropper()
    profiles = make_profiles(ids(12))
    with Run(tmp_path).journal() as journal:
        _, turns, _ = simulate(
            profiles, Fixed(), Catalog(items), party, ScriptedEngine(chatter), SimulationParameters(), "r", journal, ear
        )  # fmt: skip
    assert turns["notes"].list.len().sum() > 5
    assert sum(len(said) for said, _ in ear.given) > 50
    assert {temperature for _, temperature in ear.given} == {SimulationParameters().temperature}
    for utterance in (utterance for said, _ in ear.given for utterance in said):
        assert type(utterance) is Utterance
        assert all(item is None or isinstance(item, str) for item in utterance.items)
    assert not any(word in str(ear.given) for word in ("secret", "hush", "seen", "liked"))


# ── the real model ──


@pytest.fixture(scope="module")
def real():
    """The built-in data of four people, and a function that simulates some of them with the real models."""
    built = profile_building.build(*tables.load(ROOT / "data"), ProfileParameters(n_profiles=4))
    opinions, catalog = Opinions(built.profiles, built.training, built.items), Catalog(built.items)
    groundings = {}  # two seconds each, and they keep nothing of what is said

    def talk(folder: Path, chosen: pl.DataFrame, progress=lambda done, total: None, threads: int = 2, **parameters):
        tiny = SimulationParameters(
            weights="Q8_0", max_turns=6, max_tokens=20, n_ctx=512, width=2, threads=threads, **parameters
        )
        with open_engines(tiny) as (user, recommender), Run(folder).journal() as journal:
            if tiny.grounding not in groundings:
                groundings[tiny.grounding] = open_grounding(built.items, built.training, recommender, tiny)
            return simulate(
                chosen, opinions, catalog, user, recommender, tiny, "r", journal, groundings[tiny.grounding],
                progress=progress,
            )  # fmt: skip

    return built.profiles.sort("profile_id"), talk


@pytest.fixture(scope="module")
def whole(real, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, ...]:
    profiles, talk = real
    return talk(tmp_path_factory.mktemp("whole"), profiles)


@pytest.mark.model
@pytest.mark.parametrize("case", ["shuffled, one thread", "shards", "killed"])
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
        found = talk(tmp_path / "shuffled", profiles[[2, 1, 3, 0]], threads=1)
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


def test_grounding_is_told_where_it_is_missing(tmp_path: Path, items: pl.DataFrame) -> None:
    party = ScriptedEngine(chatter)
    with Run(tmp_path).journal() as journal, pytest.raises(CrsError, match="grounding = 'prior'"):
        simulate(make_profiles(["u1"]), Fixed(), Catalog(items), party, party, SimulationParameters(), "r", journal)
