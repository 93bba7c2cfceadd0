"""The audit detects planted leaks and nothing else; who names a target first."""

import polars as pl
import pytest

from crslib.metrics import leakage
from tests.support.domains import MOVIES
from tests.support.metrics_frames import share, table, talk

SYSTEM = "<|im_start|>system\nYou are chatting with a movie recommender.\nAbout you: {}\nLooking for: {}<|im_end|>\n"
SUMMARY = "You enjoy comedy and crime movies. You loved Notting Hill (1999)."
ATTRIBUTES = "crime movie from the 1990s with Ray Liotta"
PROFILE = {
    "profile_id": "p",
    "summary": SUMMARY,
    "attributes": ATTRIBUTES,
    "target_kinds": ["crime"],
    "target_person": "Ray Liotta",
    "loved_items": ["3"],
    "k_anonymity": 30,
}
DIALOGUE = [
    "R: Hi, what do you like?",
    "U: A crime movie from the 1990s.",
    "R: Try [[The Matrix (1999)]]!",
    "U: I haven't seen it.",
]
# The new part of each turn's prompt, as the engine records it.
PROMPTS = [
    "<|im_start|>system\nYou are a movie recommender.<|im_end|>\n<|im_start|>assistant\n",
    SYSTEM.format(SUMMARY, ATTRIBUTES) + "<|im_start|>user\nHi, what do you like?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\nA crime movie from the 1990s.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\nTry [[The Matrix (1999)]]!\n(The Matrix (1999): not seen, interested)<|im_end|>\n"
    "<|im_start|>assistant\n",
]


def audited(
    items: pl.DataFrame,
    hidden: list[str],
    prompts: list[str] | None = None,
    profile: dict[str, object] | None = None,
    dialogue: list[str] | None = None,
) -> leakage.Audit:
    dialogues, turns = talk({"p": dialogue or DIALOGUE})
    fed = table(
        "prompts",
        [
            {
                "dialogue_id": "p",
                "turn": turn,
                "role": "user" if turn % 2 else "recommender",
                "text": text,
                "n_tokens": 9,
            }
            for turn, text in enumerate(prompts or PROMPTS)
        ],
    )
    profiles = table("profiles", [PROFILE | (profile or {})])
    holdouts = table("holdouts", [{"profile_id": "p", "item_id": i, "rating": 4.0, "liked": True} for i in hidden])
    return leakage.audit(fed, profiles, holdouts, items, dialogues, turns, MOVIES)


def planted(turn: int, old: str, new: str) -> list[str]:
    assert old in PROMPTS[turn]
    return [text.replace(old, new) if number == turn else text for number, text in enumerate(PROMPTS)]


def test_a_clean_run_has_no_finding(items: pl.DataFrame) -> None:
    audit = audited(items, hidden=["1", "2", "6"])
    assert audit.findings.is_empty()
    assert audit.counts == {
        "user_prompts": 2,
        "recommender_prompts": 2,
        "profiles": 1,
        "hidden_title": 0,
        "profile_text": 0,
        "profile_marker": 0,
        "private_note": 0,
        "hidden_title_looked_up": 0,
        "hidden_item_in_profile": 0,
    }
    assert audit.table()["findings"].to_list() == [0, 0, 0, 0, 0, 0]
    assert audit.table()["read"].to_list() == [2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("1", "You loved Heat (1995)."),
        ("1", "You loved HEAT, 1995."),
        ("1", "You loved Up and Heat."),
        ("2", "You loved the matrix."),
        ("2", "You loved “The Matrix”!"),
        ("6", "You loved Up (2009)."),
    ],
)
def test_a_hidden_title_in_a_user_prompt_is_detected(items: pl.DataFrame, item: str, words: str) -> None:
    audit = audited(items, hidden=[item], prompts=planted(1, "You loved Notting Hill (1999).", words))
    assert audit.findings.select("turn", "role", "kind").rows() == [(1, "user", "hidden title")]


@pytest.mark.parametrize("words", ["You like the heat of the moment.", "Heat is what you like.", "You look it up."])
def test_ordinary_words_are_no_short_titles(items: pl.DataFrame, words: str) -> None:
    audit = audited(items, hidden=["1", "6"], prompts=planted(1, "You loved Notting Hill (1999).", words))
    assert audit.findings.is_empty()


def test_a_title_within_another_item_or_a_name_of_the_profile_is_no_leak(items: pl.DataFrame) -> None:
    more = pl.concat(
        [
            items,
            items.head(1).with_columns(item_id=pl.lit("7"), title=pl.lit("Heat: Reloaded")),
            items.head(1).with_columns(item_id=pl.lit("8"), title=pl.lit("Ray")),
        ]
    )
    prompts = planted(1, "You loved Notting Hill (1999).", "You loved Heat: Reloaded and King Kong (2005).")
    assert audited(more, hidden=["1", "8"], prompts=prompts).findings.is_empty()
    # The other film of that name is no leak: only its own year would be.
    assert audited(more, hidden=["4"], prompts=prompts).findings.is_empty()
    assert audited(more, hidden=["5"], prompts=prompts).findings["evidence"].to_list() == ["King Kong (2005)"]


def test_a_title_that_was_named_before_is_no_leak_and_one_named_later_is(items: pl.DataFrame) -> None:
    early = ["R: [[Heat (1995)]]?", *DIALOGUE[1:]]
    prompts = planted(1, "Hi, what do you like?", "[[Heat (1995)]]?\n(Heat (1995): seen, liked)")
    assert audited(items, hidden=["1"], prompts=prompts, dialogue=early).findings.is_empty()
    late = [*DIALOGUE[:2], "R: [[Heat (1995)]]?", DIALOGUE[3]]
    assert audited(items, hidden=["1"], prompts=prompts, dialogue=late).counts["hidden_title"] == 1


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("You enjoy comedy and crime movies.", "profile text"),
        ("The user says: you enjoy comedy and crime movies", "profile text"),
        ("crime movie from the 1990s with Ray Liotta", "profile text"),
        ("About you: nothing", "profile marker"),
        ("Looking for: nothing", "profile marker"),
        ("(Heat (1995): seen, disliked)", "private note"),
        ("(Heat (1995): not seen, interested; Up (2009): seen)", "private note"),
    ],
)
def test_private_text_in_a_recommender_prompt_is_detected(items: pl.DataFrame, words: str, kind: str) -> None:
    audit = audited(items, hidden=["4"], prompts=planted(2, "A crime movie", f"{words}\nA crime movie"))
    assert audit.findings.select("turn", "role", "kind").rows() == [(2, "recommender", kind)]
    assert audit.counts[kind.replace(" ", "_")] == 1


def test_facts_of_a_hidden_item_that_nobody_named_are_a_leak(items: pl.DataFrame) -> None:
    line = "A crime movie from the 1990s.\n({}: action)"
    for hidden, looked_up, n in (("6", "Up (2009)", 1), ("6", "The Matrix (1999)", 0), ("1", "Heat (1995)", 1)):
        prompts = planted(2, "A crime movie from the 1990s.", line.format(looked_up))
        findings = audited(items, hidden=[hidden], prompts=prompts).findings
        assert findings["kind"].to_list() == ["hidden title looked up"] * n
    # Once somebody has named it, it may be looked up; who acts in it may have the name of a film.
    named = ["R: Hi, what?", "U: [[Up (2009)]]. A crime movie from the 1990s.", "R: Try [[The Matrix (1999)]]!"]
    prompts = planted(2, "A crime movie from the 1990s.", line.format("Up (2009)"))
    assert audited(items, hidden=["6"], prompts=prompts, dialogue=named).findings.is_empty()
    starring = items.with_columns(pl.when(item_id="6").then(["The Matrix"]).otherwise("people").alias("people"))
    prompts = planted(2, "A crime movie from the 1990s.", "A crime movie\n(Up (2009): with The Matrix)")
    assert audited(starring, hidden=["2"], prompts=prompts, dialogue=named).findings.is_empty()
    assert audited(items, hidden=["2"], prompts=prompts, dialogue=named).findings.height == 1


def test_what_the_user_said_is_no_leak_but_a_repetition_is(items: pl.DataFrame) -> None:
    spoken = f"{SUMMARY} Looking for: {ATTRIBUTES}"
    dialogue = [DIALOGUE[0], f"U: {spoken}", *DIALOGUE[2:]]
    once = planted(2, "A crime movie from the 1990s.", spoken)
    assert audited(items, hidden=["1"], prompts=once, dialogue=dialogue).findings.is_empty()
    twice = planted(2, "A crime movie from the 1990s.", f"{spoken} {ATTRIBUTES}")
    kinds = audited(items, hidden=["1"], prompts=twice, dialogue=dialogue).findings["kind"].to_list()
    assert kinds == ["profile text"]


def test_a_hidden_item_in_the_profile_is_detected(items: pl.DataFrame) -> None:
    audit = audited(items, hidden=["6"], profile={"loved_items": ["3", "6"]})
    assert audit.findings["kind"].to_list() == ["hidden item in profile"]
    assert audit.counts["hidden_item_in_profile"] == 1


def test_who_named_a_target_first(items: pl.DataFrame) -> None:
    _, turns = talk(
        {
            "a": ["U: I want [[Heat (1995)]]", "R: [[Heat (1995)]] is good"],
            "b": ["R: [[Heat (1995)]]", "U: I love [[Heat (1995)]]"],
            "c": ["U: what about the matrx?", "R: hm"],
            "d": ["U: heat, please", "R: hm"],
            "e": ["U: king kong 1933", "R: [[King Kong (2005)]]"],
            "f": ["U: hello", "R: hm"],
        }
    )
    targets = pl.DataFrame(
        [("a", "1"), ("b", "1"), ("c", "2"), ("d", "1"), ("e", "5"), ("f", "1")],
        schema=["dialogue_id", "item_id"],
        orient="row",
    )
    named = leakage.first_named(turns, targets, items)
    assert named.rows() == [
        ("a", "1", 0, 1),
        ("b", "1", 1, 0),
        ("c", "2", 0, None),  # misspelt, but near enough
        ("d", "1", None, None),  # one short word is no title
        ("e", "5", 0, 1),  # the bare title could mean either film
        ("f", "1", None, None),
    ]
    assert share(leakage.named_by_user_first(turns, targets, items), "target_named_by_user") == pytest.approx(3 / 6)


def test_numbers_in_titles_must_agree(items: pl.DataFrame) -> None:
    sequels = items.head(1).with_columns(title=pl.lit("Toy Story 2"), year=pl.lit(1999, pl.Int32))
    targets = pl.DataFrame({"dialogue_id": ["a"], "item_id": ["1"]})
    for text, turn in (("U: toy story 3", None), ("U: toy story", None), ("U: I like toy story 2", 0)):
        _, turns = talk({"a": [text]})
        assert leakage.first_named(turns, targets, sequels)["user"].to_list() == [turn]


def test_k_anonymity_is_a_median_with_interval_and_a_minimum() -> None:
    dialogues, _ = talk({"a": [], "b": [], "c": []})
    profiles = table("profiles", [{"profile_id": p, "k_anonymity": k} for p, k in (("a", 20), ("b", 90), ("c", 30))])
    estimates = leakage.k_anonymity(dialogues, profiles, times=200, seed=0)
    assert (estimates["k_anonymity"].value, estimates["k_anonymity"].n) == (30, 3)
    assert estimates["k_anonymity"].low is not None
    assert (estimates["k_anonymity_min"].value, estimates["k_anonymity_min"].low) == (20, None)
