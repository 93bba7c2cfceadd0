"""Contexts, candidates and pairs, with scripted replies."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from crslib.data import trl
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue, Item
from crslib.data.corpora.base import merge_messages
from crslib.dialogue import views
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER, mention
from crslib.dialogue.views import NOTE_KINDS
from crslib.engines.scripted import CONTROL, ScriptedEngine
from crslib.identity import derive_seed
from crslib.store import Run
from crslib.training import preferences
from crslib.training.preferences import (
    Context,
    candidates,
    count,
    human_contexts,
    judge_question,
    judge_scores,
    messages,
    sample,
    select_pairs,
    with_forced_notes,
    with_judge_scores,
    with_rule_scores,
)
from tests.support.domains import MOVIES

HEAT, MATRIX, UP = "Heat (1995)", "The Matrix (1999)", "Up (2009)"


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items, MOVIES)


# ── contexts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def talk() -> Dialogue:
    items = {
        "1": Item(HEAT, False, True, True, "user"),
        "2": Item(MATRIX, True, False, True, "user"),
        "6": Item(UP, True, None, None, "user"),
    }
    messages = [
        (USER, f"I like {mention(HEAT)}", ["1"]),
        (RECOMMENDER, f"Seen {mention(MATRIX)}?", ["2"]),
        (USER, "No, I will watch it", []),
        (RECOMMENDER, f"{mention(MATRIX)} then {mention(UP)}", ["2", "6"]),
        (USER, "Thanks", []),
    ]
    return Dialogue("7", "a", "b", merge_messages(messages), items)


def test_contexts_of_human_dialogues(catalog: Catalog) -> None:
    contexts = human_contexts([talk()], USER, catalog)
    assert [(one.context_id, one.kind, len(one.history)) for one in contexts] == [
        ("7:00", "", 0),
        ("7:02", "unseen_interested", 2),
        ("7:04", "unseen_interested", 4),  # nothing is known of the other item
    ]
    assert contexts[1].reply == "No, I will watch it"
    assert contexts[1].messages[-1].text == f"Seen {mention(MATRIX)}?\n({MATRIX}: not seen, interested)"
    assert f"You loved {HEAT}." in contexts[1].messages[0].text
    assert contexts[1].profile["loved_items"] == ["1"]


def test_a_recommenders_context_holds_nothing_private(catalog: Catalog) -> None:
    contexts = human_contexts([talk()], RECOMMENDER, catalog)
    assert [one.context_id for one in contexts] == ["7:01", "7:03"]
    system, liked, own, seen = (message.text for message in contexts[1].messages)
    assert (system, own) == (MOVIES.system.recommender, f"Seen {mention(MATRIX)}?")
    assert liked == f"I like {mention(HEAT)}\n({HEAT}: {catalog.lookup['1'].words(MOVIES)})"
    assert seen.startswith("No, I will watch it\n")
    assert all(one.profile == {} and one.notes == () and one.kind == "" for one in contexts)


def test_every_kind_of_note_is_forced_for_an_item_named_for_the_first_time(catalog: Catalog) -> None:
    forced = with_forced_notes(human_contexts([talk()], USER, catalog), MOVIES)
    assert [one.context_id for one in forced] == [f"7:02:{kind}" for kind in NOTE_KINDS.values()]
    assert not any(one.reply for one in forced), "the person answered with notes of their own"
    assert forced[1].messages[-1].text.endswith(f"({MATRIX}: seen, disliked)")
    assert "interested" not in "".join(message.text for message in forced[1].messages)


def test_sample_takes_a_moment_once_and_ignores_the_order(catalog: Catalog) -> None:
    forced = with_forced_notes(human_contexts([talk()], USER, catalog), MOVIES)
    drawn = sample(forced, dict.fromkeys(NOTE_KINDS.values(), 5), 0)
    assert len(drawn) == 1
    assert sample(forced[::-1], dict.fromkeys(NOTE_KINDS.values(), 5), 0) == drawn
    assert [one.kind for one in sample(forced, {"seen_disliked": 5}, 3)] == ["seen_disliked"]


# ── candidates and pairs ────────────────────────────────────────────────────────────────────────────────────────────


def moment(catalog: Catalog) -> list[Context]:
    forced = with_forced_notes(human_contexts([talk()], USER, catalog), MOVIES)
    return [one for one in forced if one.kind == "seen_disliked"]


def speaker(*replies: str) -> ScriptedEngine:
    given: list[str] = []

    def reply(prompt: str, seed: int) -> str:
        given.append(prompt)
        return replies[(len(given) - 1) % len(replies)]

    return ScriptedEngine(reply)


def test_candidates_have_their_own_seeds_and_release_their_sequences(catalog: Catalog) -> None:
    engine = ScriptedEngine(lambda prompt, seed: str(seed))
    contexts = human_contexts([talk()], USER, catalog)
    drawn = candidates(contexts, engine, 3, 5)
    assert drawn.select("context_id", "draw").rows() == [(one.context_id, n) for one in contexts for n in range(3)]
    assert drawn["raw"][4] == str(derive_seed(5, "candidate", "7:02", 1))
    assert drawn["raw"].n_unique() == 9
    assert candidates(contexts[1:2], engine, 2, 5).rows() == drawn.rows()[3:5]
    assert not engine.alive


def test_candidates_of_an_adapter_of_trl_are_drawn_as_it_reads(catalog: Catalog) -> None:
    engine = ScriptedEngine(lambda prompt, seed: "bye [END]")
    first = human_contexts([talk()], USER, catalog)[0]
    assert set(candidates([first], engine, 2, 0, told=True)["raw"]) == {"bye"}
    system = first.messages[0].text
    told = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{trl.OPENING}<|im_end|>\n<|im_start|>assistant\n"
    assert {prompt for _, prompt in engine.prompts} == {told}
    assert set(candidates([first], engine, 2, 0)["raw"]) == {"bye [END]"}


def test_candidates_in_the_journal_are_not_drawn_again(catalog: Catalog, tmp_path: Path) -> None:
    contexts = human_contexts([talk()], USER, catalog)
    engine = ScriptedEngine(lambda prompt, seed: str(seed), width=1)  # four contexts at a time
    contexts += [replace(one, context_id=f"again {one.context_id}") for one in contexts]
    reached: list[tuple[int, int]] = []

    def journalled(seed: int = 5) -> pl.DataFrame:
        with Run(tmp_path).journal() as journal:
            return candidates(contexts, engine, 2, seed, journal, lambda *counts: reached.append(counts))

    whole = journalled()
    assert reached == [(0, 6), (4, 6), (6, 6)]
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # killed while the last two were written
    before = len(engine.prompts)
    assert journalled().rows() == whole.rows() == candidates(contexts, engine, 2, 5).rows()
    assert len(engine.prompts) - before == 2 * 2 + 6 * 2
    assert journalled(seed=6)["raw"].to_list() != whole["raw"].to_list()


def test_a_low_score_of_a_judge_costs(catalog: Catalog) -> None:
    contexts = moment(catalog)
    drawn = candidates(contexts, speaker("I hated it", "I loved it"), 2, 0)
    scored = with_rule_scores(contexts, drawn, catalog)
    judged = with_judge_scores(scored, [0.25, 1.0], weight=2.0)
    assert judged["judge"].to_list() == [0.25, 1.0]
    assert judged["total"].to_list() == [scored["total"][0] - 1.5, scored["total"][1]]
    assert judged.columns == scored.columns == list(preferences.SCORED)


def test_a_judge_reads_the_whole_view() -> None:
    asked: list[str] = []

    class Yes:
        def ask(self, messages: list[views.Message], options: tuple[str, ...]) -> list[float] | None:
            asked.append(messages[1].text)
            return None if "blue" in messages[1].text else [0.5, 0.25, 0.25, 0.0]

    view = (views.Message("system", "You watch movies."), views.Message("user", "Have you seen\n(Up: seen, liked)"))
    context = Context("a", "a", USER, "", view, (), (), {})
    drawn = pl.DataFrame({"context_id": ["a", "a"], "raw": ["I have", "Bananas are blue"]})
    assert judge_scores(Yes(), [context], drawn, MOVIES) == [0.75, 0.5]
    assert judge_question(context, "I have", MOVIES)[1].text == asked[0]
    assert asked[0].startswith("What the seeker was told: You watch movies.\nRecommender: Have you seen (Up: seen")
    assert "Reply of the seeker: I have\n" in asked[0]


def test_a_pair_is_the_best_and_the_worst_of_similar_length(catalog: Catalog) -> None:
    contexts = moment(catalog)
    good, bad, long = "I saw it. I hated it", "I saw it. I loved it", "I loved it. " * 4
    engine = speaker(bad, good, long.strip(), "")
    scored = with_rule_scores(contexts, candidates(contexts, engine, 4, 0), catalog)
    assert scored["total"].to_list() == [-3.0, 0.0, -3.0, -1.5]
    pairs = select_pairs(contexts, scored, engine)
    (row,) = pairs.rows(named=True)
    end = ord("<") | CONTROL
    assert (row["chosen_text"], row["rejected_text"], row["reasons"]) == (good, bad, ["agrees_with_note"])
    assert row["chosen"] == [*engine.encode(good), end]
    assert row["chosen_target"] == [True] * len(row["chosen"])
    assert row["prompt"] == ChatTemplate("").encode(contexts[0].messages, engine)
    assert count(pairs).select("role", "pairs", "chosen", "rejected", "agrees_with_note", "well_formed").rows() == [
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
def test_no_pair_without_a_clear_difference_in_rules_alone(catalog: Catalog, replies: tuple[str, str]) -> None:
    contexts, engine = moment(catalog), speaker(*replies)
    scored = with_rule_scores(contexts, candidates(contexts, engine, 2, 0), catalog)
    assert select_pairs(contexts, scored, engine).is_empty()


def test_the_longest_pairs_are_removed_until_both_sides_are_equally_long() -> None:
    sizes = [("a", 5, 3), ("b", 4, 3), ("c", 3, 5), ("d", 9, 5), ("e", 4, 4)]
    rows = [
        (
            name,
            USER,
            [1],
            [1] * 9,
            [1] * 9,
            [n < chosen for n in range(9)],
            [n < rejected for n in range(9)],
            [],
            "",
            "",
        )
        for name, chosen, rejected in sizes
    ]
    pairs = preferences.balanced(pl.DataFrame(rows, schema=preferences.PAIRS, orient="row"))
    assert pairs["context_id"].to_list() == ["a", "c", "e"]  # of a surplus of 5, d takes 4 and b the last one


def test_pairs_as_trl_reads_them(catalog: Catalog, tmp_path: Path) -> None:
    contexts = moment(catalog)
    engine = speaker("I saw it. I hated it", "I saw it. I loved it")
    scored = with_rule_scores(contexts, candidates(contexts, engine, 2, 0), catalog)
    messages(contexts, select_pairs(contexts, scored, engine)).write_ndjson(tmp_path / "pairs.jsonl")
    (line,) = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    read = json.loads(line)
    assert read["chosen"] == [{"role": "assistant", "content": "I saw it. I hated it"}]
    assert read["rejected"] == [{"role": "assistant", "content": "I saw it. I loved it"}]
    assert [message["role"] for message in read["prompt"]] == ["system", "user", "assistant", "user"]
