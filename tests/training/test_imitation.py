"""Pairs of a person's reply and the model's: which draws will do, what counts, and who judges."""

from dataclasses import replace

import polars as pl
import pytest

from crslib.dialogue.prompts import LEAVE
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Message
from crslib.engines.scripted import CONTROL, ScriptedEngine
from crslib.training import discriminator, imitation, preferences
from crslib.training.imitation import SCORED, sample, select_pairs, turns, with_log_odds
from crslib.training.preferences import CANDIDATES, Context

ENGINE = ScriptedEngine(lambda prompt, seed: "")
END = ord("<") | CONTROL
PERSON = "I liked [[Heat (1995)]] a lot"  # every character is a token: 14 of them and the end are targets


def context(number: int, reply: str = PERSON) -> Context:
    name = f"{number}:01"
    return Context(name, name, USER, "", (Message("user", "Have you seen it?"),), (), (), {}, reply)


def drawn(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    """Draws of context 0: (text, finish, log-odds of it, log-odds of what the person said)."""
    return pl.DataFrame(
        [
            ("0:01", number, [], text, finish, text, own, person)
            for number, (text, finish, own, person) in enumerate(rows)
        ],
        schema=SCORED,
        orient="row",
    )


def chosen_draw(*rows: tuple[str, str, float, float]) -> str | None:
    """The rejected text of the only pair; alone, it would be removed for the sake of equal means."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences, "balanced", lambda pairs: pairs)
        pairs = select_pairs([context(0)], drawn(*rows), ENGINE)
    return pairs["rejected_text"][0] if len(pairs) else None


SIMILAR = "It is a very good one"  # 21 tokens
MODELS = "[[Up (2009)]] is so nice"  # 11 tokens and a title


def test_titles_are_no_targets_on_either_side() -> None:
    other = "I liked [[The Matrix (1999)]] so so"
    (row,) = select_pairs([context(0)], drawn((other, "end", -1, 1)), ENGINE).rows(named=True)
    assert (row["chosen"], row["rejected"]) == ([*ENGINE.encode(PERSON), END], [*ENGINE.encode(other), END])
    for text, side in ((PERSON, "chosen"), (other, "rejected")):
        start, stop = text.index("[["), text.index("]]") + 2
        expected = [not start <= place < stop for place in range(len(text))]
        assert row[f"{side}_target"] == [*expected, True]
    assert (row["chosen_text"], row["rejected_text"]) == (PERSON, other)
    assert ENGINE.decode(row["prompt"]).endswith("Have you seen it?<|im_end|>\n<|im_start|>assistant\n")


def test_lengths_are_similar_by_the_tokens_that_count() -> None:
    """Of the 15 tokens of what the person said, 0.8 are 12, and 1.25 are 18.75."""
    for n, fits in ((10, False), (11, True), (17, True), (18, False)):  # and the end
        assert (chosen_draw(("x" * n, "end", -1, 1)) is not None) == fits, n
    assert chosen_draw(("x" * 13 + " [[The Lord of the Rings (2001)]]", "end", -1, 1)) is not None, (
        "a title has no length"
    )


@pytest.mark.parametrize(
    ("own", "person", "fits"),
    [
        (-1.0, 1.0, True),
        (-1.0, -0.5, True),  # what the person said looks like the model's, but less so
        (-1.0, -2.0, False),  # what the person said looks more like the model's
        (0.5, 1.0, False),  # looks like a person's
        (0.0, 1.0, False),
    ],
)
def test_a_reply_that_passes_for_a_persons_is_not_rejected(own: float, person: float, fits: bool) -> None:
    assert (chosen_draw(("It was very nice", "end", own, person)) is not None) == fits


def test_the_first_draw_that_will_do_is_rejected() -> None:
    good = "It was so nice"
    assert (
        chosen_draw(
            ("It was very very", "max_tokens", -1, 1),  # cut
            ("", "end", -1, 1),  # leaves, but not in the first draw
            (PERSON, "end", -1, 1),  # what the person said
            ("too short", "end", -1, 1),
            (good, "end", -1, 1),
            ("It was nice too", "end", -9, 1),
        )
        == good
    )


def test_both_sides_have_the_same_mean_length() -> None:
    contexts = [context(number) for number in range(4)]
    rows = [
        (f"{number}:01", 0, [], text, "end", text, -1.0, 1.0) for number, text in enumerate(["x" * 11] * 3 + ["x" * 17])
    ]
    pairs = select_pairs(contexts, pl.DataFrame(rows, schema=SCORED, orient="row"), ENGINE)
    surplus = pairs["chosen_target"].list.sum().cast(pl.Int64) - pairs["rejected_target"].list.sum().cast(pl.Int64)
    assert len(pairs) == 2
    assert surplus.to_list() == [3, -3]


@pytest.mark.parametrize(
    ("reply", "text", "role", "first"),
    [
        ("", "Any other?", USER, (END, ord("A"))),  # the person left, the model goes on
        (PERSON, "", USER, (ord("I"), END)),  # the other way round
        ("", "", USER, None),
        (PERSON, "", RECOMMENDER, None),  # who says nothing has not left
    ],
)
def test_where_one_of_them_leaves_the_first_token_is_the_pair(
    reply: str, text: str, role: str, first: tuple[int, int] | None
) -> None:
    moment = replace(context(0, reply), role=role)
    pairs = select_pairs([moment], drawn((text, "end", 3, -3), (text, "end", 3, -3)), ENGINE)
    assert len(pairs) == (first is not None)
    for row in pairs.iter_rows(named=True):
        assert (row["chosen"][0], row["rejected"][0]) == first
        for side in ("chosen", "rejected"):
            assert row[f"{side}_target"] == [True] + [False] * (len(row[side]) - 1)
    for row in preferences.messages([moment], pairs).iter_rows(named=True):
        said = [row[side][0]["content"] for side in ("chosen", "rejected")]
        assert said == [reply or LEAVE, text or LEAVE], "TRL drops an empty message"


def test_only_the_first_draw_decides_whether_the_model_leaves() -> None:
    """Else a model that leaves in a tenth of such moments would be corrected in a third of them."""
    assert not len(select_pairs([context(0, "")], drawn(("", "end", 0, 0), ("Any?", "end", 0, 0)), ENGINE))
    assert not len(select_pairs([context(0)], drawn(("no", "end", 1, 1), ("", "end", 0, 0)), ENGINE))
    assert not len(select_pairs([context(0, "")], drawn(("Any", "max_tokens", 0, 0)), ENGINE)), "it may end there"


def test_a_sample_depends_on_seed_and_ids_alone() -> None:
    contexts = [context(number) for number in range(20)]
    contexts[3] = replace(contexts[3], kind="seen_liked")
    some = sample(contexts, 8, 1)
    assert len(some) == 8 and sample(contexts[::-1], 8, 1) == some and sample(contexts, 8, 2) != some
    assert some == sorted(some, key=lambda one: one.context_id)
    assert len(sample(contexts, 100, 1)) == 20


# ── judges ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def corpus(n: int = 40) -> tuple[list[Context], pl.DataFrame]:
    """People say "superb", the model "great", each in every turn."""
    contexts = [context(number, f"superb number{number % 3}") for number in range(n)]
    rows = [(one.context_id, draw, [], f"great number{draw}", "end") for one in contexts for draw in range(2)]
    return contexts, pl.DataFrame(rows, schema=CANDIDATES, orient="row")


def test_turns_are_those_of_people_and_the_ended_ones_of_the_model() -> None:
    contexts, draws = corpus(2)
    cut = draws.with_columns(finish=pl.Series(["end", "max_tokens", "end", "end"]))
    said = turns([*contexts, context(7, "hi")], contexts, cut)
    assert said.rows() == [
        ("0", "superb number0", True), ("1", "superb number1", True), ("7", "hi", True),
        ("0", "great number0", False), ("1", "great number0", False), ("1", "great number1", False),
    ]  # fmt: skip


def test_nobody_is_judged_by_a_discriminator_of_their_own_dialogue(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts, draws = corpus()
    fitted: list[set[str]] = []
    fit = discriminator.fit

    def spy(said: pl.DataFrame) -> discriminator.Discriminator:
        fitted.append(set(said["dialogue_id"]))
        return fit(said)

    monkeypatch.setattr(discriminator, "fit", spy)
    scored, judges = with_log_odds(contexts, contexts, draws)
    everything = {imitation.dialogue_of(one) for one in contexts}
    left_out = [everything - read for read in fitted]
    assert len(judges) == len(fitted) == discriminator.FOLDS
    assert sorted(name for part in left_out for name in part) == sorted(everything), "each is left out once"
    assert scored["log_odds"].max() < 0 < scored["person_log_odds"].min()
    assert scored.columns == list(SCORED)


def test_a_rare_slip_of_the_model_is_judged_by_what_others_say() -> None:
    """A word that only one dialogue has tells nothing there: its own discriminator has not read it."""
    contexts, draws = corpus()
    slip = pl.col("context_id") == "5:01"
    odd = draws.with_columns(raw=pl.when(slip).then(pl.lit("superb unheard")).otherwise("raw"))
    scored, _ = with_log_odds(contexts, contexts, odd)
    assert scored.filter(slip)["log_odds"].min() > 0, "it passes for a person's"
    assert select_pairs(contexts, scored, ENGINE).filter(slip).is_empty()
