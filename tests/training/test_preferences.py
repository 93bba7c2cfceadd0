import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib import schemas
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue, Item
from crslib.data.corpora.base import merge_messages
from crslib.dialogue import reactions, views
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER, mention
from crslib.dialogue.views import NOTE_KINDS
from crslib.engines.base import Completion, Request, complete
from crslib.engines.resampling import Resampling
from crslib.engines.scripted import CONTROL, ScriptedEngine
from crslib.identity import derive_seed
from crslib.store import Run
from crslib.training import preferences, rewards
from crslib.training.preferences import (
    Context,
    candidates,
    count,
    draw,
    forced,
    judge,
    messages,
    of_people,
    of_run,
    pairs,
)
from tests.conftest import make_profiles

HEAT, MATRIX, UP = "Heat (1995)", "The Matrix (1999)", "Up (2009)"
NOBODY: dict[str, Any] = {"liked_genres": [], "disliked_genres": [], "loved_items": [], "disliked_items": []}


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items)


def turn(catalog: Catalog, role: str, text: str, *notes: tuple[str, bool | None, bool | None]) -> dict[str, Any]:
    """A row of table `turns`; in a text `<Heat (1995)>` is a mention."""
    text = text.replace("<", "[[").replace(">", "]]")
    known = [
        {"item_id": catalog.find(name), "title": name, "seen": seen, "liked": liked} for name, seen, liked in notes
    ]
    return {"role": role, "text": text, "items": catalog.link(text), "notes": known, "finish": "end"}


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seen", "liked", "reply", "score"),
    [
        (True, False, "Yes I have seen it but I hated it", 1.0),
        (True, False, "Yes I have seen it", 0.75),
        (True, False, "Something else please", 0.5),
        (True, False, "I loved it", 0.0),
        (True, True, "I have not seen it", 0.0),
        (False, False, "I have not seen it, not my type", 1.0),
        (False, False, "I have not seen it. I will check it out", 0.0),
        (False, None, "I haven't seen it", 1.0),
    ],
)
def test_reaction_is_the_mean_over_what_the_note_knows(
    catalog: Catalog, seen: bool, liked: bool | None, reply: str, score: float
) -> None:
    asked = turn(catalog, RECOMMENDER, "Have you seen <Heat (1995)>?")
    assert reactions.reaction(turn(catalog, USER, reply, (HEAT, seen, liked)), [asked]) == score


def test_reaction_has_nothing_to_say_without_notes_on_what_was_just_named(catalog: Catalog) -> None:
    asked, other = turn(catalog, RECOMMENDER, "<Up (2009)>?"), turn(catalog, USER, "Loved it", (HEAT, True, True))
    assert reactions.reaction(other, [asked]) is None
    assert reactions.reaction(turn(catalog, USER, "Loved it"), [asked]) is None
    assert reactions.reaction(other, []) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [("I love comedy movies", 1.0), ("I hate comedy movies", 0.0), ("I love <Heat (1995)>", 0.0), ("Hello", None)],
)
def test_summary(catalog: Catalog, text: str, score: float | None) -> None:
    profile = NOBODY | {"liked_genres": ["comedy"], "disliked_items": ["1"]}
    assert rewards.summary(turn(catalog, USER, text), profile) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("I loved <Heat (1995)>", 1.0),
        ("I have not seen <Heat (1995)>", 0.0),
        ("I loved <No Such Film (1987)>", 0.0),
        ("I have not seen <Up (2009)>", None),
    ],
)
def test_what_nobody_asked_for(catalog: Catalog, text: str, score: float | None) -> None:
    assert rewards.unasked(turn(catalog, USER, text), [turn(catalog, RECOMMENDER, "<Up (2009)>?")]) == score


def test_a_title_is_new_unless_the_recommender_named_it_and_the_user_does_not_ask(catalog: Catalog) -> None:
    once = turn(catalog, RECOMMENDER, "Try <Heat (1995)>")
    more = turn(catalog, RECOMMENDER, "So <Heat (1995)> or <Up (2009)>")
    assert rewards.new(more, [once, turn(catalog, USER, "Ok")]) == 0.0
    assert rewards.new(more, [once, turn(catalog, USER, "Who is in <Heat (1995)>?")]) == 1.0
    assert rewards.new(more, [turn(catalog, USER, "I like <Heat (1995)>")]) == 1.0
    assert rewards.new(turn(catalog, RECOMMENDER, "Bye"), [once]) is None


def test_titles_that_exist(catalog: Catalog) -> None:
    assert rewards.exists(turn(catalog, RECOMMENDER, "<Heat (1995)> and <No Such Film (1987)>")) == 0.5
    assert rewards.exists(turn(catalog, RECOMMENDER, "Bye")) is None


@pytest.mark.parametrize(
    ("said", "reply", "score"),
    [
        ("A comedy please", "<Heat (1995)>", 0.0),
        ("A comedy please", "<Notting Hill (1999)>", 1.0),
        ("A comedy please", "<Notting Hill (1999)> or <Heat (1995)>", 0.5),
        ("No romance please", "<Notting Hill (1999)>", 0.0),
        ("No romance please", "<Heat (1995)>", 1.0),
        ("I have not seen a comedy for long", "<Heat (1995)>", None),
        ("A comedy, unlike <Heat (1995)>", "<Heat (1995)> is none", None),
        ("Hello", "<Heat (1995)>", None),
    ],
)
def test_heeds_genres_asked_for_and_refused(catalog: Catalog, said: str, reply: str, score: float | None) -> None:
    genres = dict(catalog.items.select("item_id", "genres").iter_rows())
    assert rewards.heeds(turn(catalog, RECOMMENDER, reply), [turn(catalog, USER, said)], genres) == score


def test_the_same_sentence_again(catalog: Catalog) -> None:
    said = [turn(catalog, USER, "I would like a good comedy"), turn(catalog, RECOMMENDER, "What is it that you like?")]
    assert rewards.again(turn(catalog, USER, "I would like a good comedy!"), said) == 0.0
    assert rewards.again(turn(catalog, USER, "What is it that you like?"), said) == 1.0
    assert rewards.again(turn(catalog, USER, "a good comedy"), said) is None
    assert rewards.again(turn(catalog, USER, "I would like a good comedy"), said[1:]) is None


@pytest.mark.parametrize(
    ("raw", "finish", "score"),
    [("I like [[Up (2009)]]", "end", 1.0), ("I like", "max_tokens", 0.0), ("I [[Up", "end", 0.0), ("a\nb", "end", 0.0)],
)
def test_ends(raw: str, finish: str, score: float) -> None:
    assert rewards.ends(raw, finish) == score


def test_length_has_a_limit_and_no_reward(catalog: Catalog) -> None:
    assert [rewards.length(turn(catalog, USER, " ".join(["yes"] * n))) for n in (1, 30, 31)] == [1.0, 1.0, 0.0]
    assert rewards.length(turn(catalog, RECOMMENDER, " ".join(["yes"] * 31))) == 1.0


def test_total_is_what_broken_rules_cost() -> None:
    found = dict.fromkeys(rewards.WEIGHTS[USER], 1.0) | {"reaction": 0.5, "summary": None, "again": 0.0}
    assert rewards.total(found, USER) == -(3 * 0.5 + 1)


# ── contexts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def talk() -> Dialogue:
    items = {
        "1": Item(HEAT, False, True, True, "user"),
        "2": Item(MATRIX, True, False, True, "user"),
        "6": Item(UP, True, None, None, "user"),
    }
    said = [
        (USER, f"I like {mention(HEAT)}", ["1"]),
        (RECOMMENDER, f"Seen {mention(MATRIX)}?", ["2"]),
        (USER, "No, I will watch it", []),
        (RECOMMENDER, f"{mention(MATRIX)} then {mention(UP)}", ["2", "6"]),
        (USER, "Thanks", []),
    ]
    return Dialogue("7", "a", "b", merge_messages(said), items)


def test_contexts_of_people(catalog: Catalog) -> None:
    found = of_people([talk()], USER, catalog)
    assert [(one.context_id, one.kind, len(one.said)) for one in found] == [
        ("7:00", "", 0),
        ("7:02", "unseen_interested", 2),
        ("7:04", "unseen_interested", 4),  # nothing is known of the other item
    ]
    assert found[1].messages[-1].text == f"Seen {mention(MATRIX)}?\n({MATRIX}: not seen, interested)"
    assert f"You loved {HEAT}." in found[1].messages[0].text
    assert found[1].profile["loved_items"] == ["1"]


def test_a_recommenders_context_holds_nothing_private(catalog: Catalog) -> None:
    found = of_people([talk()], RECOMMENDER, catalog)
    assert [one.context_id for one in found] == ["7:01", "7:03"]
    assert [message.text for message in found[1].messages] == [
        views.RECOMMENDER_SYSTEM, f"I like {mention(HEAT)}", f"Seen {mention(MATRIX)}?", "No, I will watch it"
    ]  # fmt: skip
    assert all(one.profile == {} and one.notes == () and one.kind == "" for one in found)


def test_every_kind_of_note_is_forced_on_an_item_named_for_the_first_time(catalog: Catalog) -> None:
    found = forced(of_people([talk()], USER, catalog))
    assert [one.context_id for one in found] == [f"7:02:{kind}" for kind in NOTE_KINDS.values()]
    assert found[1].messages[-1].text.endswith(f"({MATRIX}: seen, disliked)")
    assert "interested" not in "".join(message.text for message in found[1].messages)


def test_contexts_of_a_run_are_the_views_it_had(catalog: Catalog) -> None:
    profiles = make_profiles(["p"])
    known = [{"item_id": "1", "title": HEAT, "seen": True, "liked": False}]
    said = [(RECOMMENDER, "Hi", []), (USER, "Hey", []), (RECOMMENDER, mention(HEAT), []), (USER, "Awful", known)]
    rows = [
        {"dialogue_id": "p.0", "turn": number, "role": role, "text": text, "items": [], "notes": notes}
        | {"n_tokens": 1, "mean_logprob": None, "finish": "end"}
        for number, (role, text, notes) in enumerate(said)
    ]
    turns = pl.DataFrame(rows, schema=dict(schemas.TABLES["turns"]))
    dialogues = pl.DataFrame({"dialogue_id": ["p.0"], "profile_id": ["p"]})
    user = of_run(dialogues, turns, profiles, USER, catalog)
    assert [(one.context_id, one.kind) for one in user] == [("p.0:01", ""), ("p.0:03", "seen_disliked")]
    assert "secret0secret" in user[0].messages[0].text
    assert user[1].messages[-1].text == f"{mention(HEAT)}\n({HEAT}: seen, disliked)"
    for one in of_run(dialogues, turns, profiles, RECOMMENDER, catalog):
        assert "secret" not in str(one) and "hush" not in str(one) and "disliked" not in str(one.messages)


def test_draw_takes_a_moment_once_and_ignores_the_order(catalog: Catalog) -> None:
    found = forced(of_people([talk()], USER, catalog))
    drawn = draw(found, dict.fromkeys(NOTE_KINDS.values(), 5), 0)
    assert len(drawn) == 1
    assert draw(found[::-1], dict.fromkeys(NOTE_KINDS.values(), 5), 0) == drawn
    assert [one.kind for one in draw(found, {"seen_disliked": 5}, 3)] == ["seen_disliked"]


# ── candidates and pairs ────────────────────────────────────────────────────────────────────────────────────────────


def moment(catalog: Catalog) -> list[Context]:
    found = forced(of_people([talk()], USER, catalog))
    return [one for one in found if one.kind == "seen_disliked"]


def speaker(*replies: str) -> ScriptedEngine:
    given: list[str] = []

    def reply(prompt: str, seed: int) -> str:
        given.append(prompt)
        return replies[(len(given) - 1) % len(replies)]

    return ScriptedEngine(reply)


def test_candidates_have_seeds_of_their_own_and_leave_nothing_behind(catalog: Catalog) -> None:
    engine = ScriptedEngine(lambda prompt, seed: str(seed))
    contexts = of_people([talk()], USER, catalog)
    made = candidates(contexts, engine, 3, 5)
    assert made.select("context_id", "draw").rows() == [(one.context_id, n) for one in contexts for n in range(3)]
    assert made["raw"][4] == str(derive_seed(5, "candidate", "7:02", 1))
    assert made["raw"].n_unique() == 9
    assert candidates(contexts[1:2], engine, 2, 5).rows() == made.rows()[3:5]
    assert not engine.alive


def test_candidates_in_the_journal_are_not_made_again(catalog: Catalog, tmp_path: Path) -> None:
    contexts = of_people([talk()], USER, catalog)
    engine = ScriptedEngine(lambda prompt, seed: str(seed), width=1)  # four contexts at a time
    contexts += [replace(one, context_id=f"again {one.context_id}") for one in contexts]
    told: list[tuple[int, int]] = []

    def made(seed: int = 5) -> pl.DataFrame:
        with Run(tmp_path).journal() as journal:
            return candidates(contexts, engine, 2, seed, journal, lambda *reached: told.append(reached))

    whole = made()
    assert told == [(0, 6), (4, 6), (6, 6)]
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # killed while the last two were written
    before = len(engine.prompts)
    assert made().rows() == whole.rows() == candidates(contexts, engine, 2, 5).rows()
    assert len(engine.prompts) - before == 2 * 2 + 6 * 2
    assert made(seed=6)["raw"].to_list() != whole["raw"].to_list()


def test_a_judges_doubt_costs(catalog: Catalog) -> None:
    contexts = moment(catalog)
    judged = judge(contexts, candidates(contexts, speaker("I hated it", "I loved it"), 2, 0), catalog)
    both = preferences.also(judged, [0.25, 1.0], weight=2.0)
    assert both["judge"].to_list() == [0.25, 1.0]
    assert both["total"].to_list() == [judged["total"][0] - 1.5, judged["total"][1]]
    assert both.columns == judged.columns == list(preferences.JUDGED)


def test_a_pair_is_the_best_and_the_worst_of_like_length(catalog: Catalog) -> None:
    contexts = moment(catalog)
    good, bad, long = "I saw it. I hated it", "I saw it. I loved it", "I loved it. " * 4
    engine = speaker(bad, good, long.strip(), "")
    judged = judge(contexts, candidates(contexts, engine, 4, 0), catalog)
    assert judged["total"].to_list() == [-3.0, 0.0, -3.0, -1.5]
    made = pairs(contexts, judged, engine)
    (row,) = made.rows(named=True)
    end = ord("<") | CONTROL
    assert (row["chosen_text"], row["rejected_text"], row["reasons"]) == (good, bad, ["reaction"])
    assert row["chosen"] == [*engine.encode(good), end]
    assert row["prompt"] == ChatTemplate("").encode(contexts[0].messages, engine)
    assert count(made).select("role", "pairs", "chosen", "rejected", "reaction", "ends").rows() == [
        (USER, 1, len(good) + 1, len(bad) + 1, 1, 0)
    ]


@pytest.mark.parametrize(
    "replies",
    [
        ("I saw it. I hated it", "I saw it. I hated it!"),  # equally good
        (
            "I saw it. I hated it, " + mention(MATRIX),
            "I saw it. I loved it. It was so so good to watch",
        ),  # one names it
        ("I have not seen it", "I have not seen\nit"),  # the better one breaks a rule too
        ("I hated it", "I loved it. I loved it. I loved it"),  # over 1.5 times as long
        ("Ok, something else", "I saw it. I loved it"),  # the better one leaves open what the note knows
    ],
)
def test_no_pair_where_the_difference_is_not_clear_or_another_one(catalog: Catalog, replies: tuple[str, str]) -> None:
    contexts, engine = moment(catalog), speaker(*replies)
    assert pairs(contexts, judge(contexts, candidates(contexts, engine, 2, 0), catalog), engine).is_empty()


def test_the_longest_go_until_both_sides_are_as_long() -> None:
    sizes = [("a", 5, 3), ("b", 4, 3), ("c", 3, 5), ("d", 9, 5), ("e", 4, 4)]
    rows = [(name, USER, [1], [1] * chosen, [1] * rejected, [], "", "") for name, chosen, rejected in sizes]
    made = preferences._balanced(pl.DataFrame(rows, schema=preferences.PAIRS, orient="row"))
    assert made["context_id"].to_list() == ["a", "c", "e"]  # of a surplus of 5, d takes 4 and b the last one


def test_pairs_as_trl_reads_them(catalog: Catalog, tmp_path: Path) -> None:
    contexts = moment(catalog)
    engine = speaker("I saw it. I hated it", "I saw it. I loved it")
    made = pairs(contexts, judge(contexts, candidates(contexts, engine, 2, 0), catalog), engine)
    preferences.write_jsonl(messages(contexts, made), tmp_path / "pairs.jsonl")
    (line,) = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    read = json.loads(line)
    assert read["chosen"] == [{"role": "assistant", "content": "I saw it. I hated it"}]
    assert read["rejected"] == [{"role": "assistant", "content": "I saw it. I loved it"}]
    assert [message["role"] for message in read["prompt"]] == ["system", "assistant", "user"]


# ── reject and resample ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_accepted_draw_counts() -> None:
    engine = speaker("no", "no", "yes", "never asked")
    twice = Resampling(engine, 4)
    twice.submit(Request("a", (1, 2, 3), 7), lambda completion: engine.decode(completion.ids) == "yes")
    ended: list[tuple[str, Completion]] = []
    while twice.pending:
        ended += twice.step()
    assert [(key, engine.decode(one.ids), one.n_cached) for key, one in ended] == [("a", "yes", 0)]
    assert len(engine.prompts) == 3
    assert twice.refused == 2


def test_the_last_draw_counts_where_all_are_refused_and_others_are_left_alone() -> None:
    seeds: list[int] = []

    def reply(prompt: str, seed: int) -> str:
        seeds.append(seed)
        return str(seed)

    engine = ScriptedEngine(reply, width=1)
    twice = Resampling(engine, 2)
    twice.submit(Request("a", (1,), 7), lambda completion: False)
    twice.submit(Request("b", (1,), 8))
    ended: dict[str, Completion] = {}
    while twice.pending:
        ended.update(twice.step())
    assert engine.decode(ended["a"].ids) == str(derive_seed(7, "again", 1))
    assert engine.decode(ended["b"].ids) == "8"
    assert sorted(seeds) == sorted([7, 8, derive_seed(7, "again", 1)])


def test_it_is_an_engine_whose_identity_tells_of_it() -> None:
    engine = ScriptedEngine(lambda prompt, seed: str(seed), n_ctx=5)
    twice = Resampling(engine, 3)
    assert twice.identity == {**engine.identity, "resample": 3}
    assert complete(twice, [Request("a", (1,), 1)]) == complete(engine, [Request("b", (1,), 1)])
    twice.submit(Request("c", (1,) * 5, 1), lambda completion: False)
    assert twice.step()[0][1].finish == "context_full"
