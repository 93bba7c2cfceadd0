"""Counts of what happens in dialogues."""

from crslib.metrics.facts import FRAMES, facts
from tests.support.domains import MOVIES
from tests.support.metrics_frames import talk


def test_facts_of_a_dialogue() -> None:
    dialogues, turns = talk(
        {
            "p": [
                "R: Hi! Seen [[Heat (1995)]] or [[Nothing (2001)]]?",
                "U: I loved [[Heat (1995)]].",
                "R: ok",
                "U: I loved heat 1995",
                "R: ",
            ],
            "q": [],
        },
        notes={("p", 1): [("Heat (1995)", True, False)]},
    )
    counted = facts(dialogues, turns, MOVIES)
    assert counted.dialogue_ids.to_list() == ["p", "q"]
    assert dict(counted.turns.schema) == dict(FRAMES["turns"])
    # The last turn has no text and does not count.
    assert counted.turns["n_words"].to_list() == [7, 4, 1, 4]
    assert counted.turns["n_items"].to_list() == [2, 1, 0, 0]
    assert counted.turns["asks"].to_list() == [True, False, False, False]
    numbers = counted.turns["utterance"].to_list()
    assert numbers[1] == numbers[3]
    assert len(set(numbers)) == 3
    assert counted.mentions.select("turn", "item", "linked").rows() == [
        (0, "1", True),
        (0, "title: nothing (2001)", False),
        (1, "1", True),
    ]
    # Both items were named; one has a note and a reaction. Turn 3 answers to no item.
    assert counted.reactions.drop("dialogue_id").rows() == [
        (1, "1", True, False, True, True),
        (1, "title: nothing (2001)", None, None, None, None),
    ]


def test_a_turn_does_not_answer_to_the_dialogue_before() -> None:
    dialogues, turns = talk({"p": ["R: See [[Heat (1995)]]"], "q": ["U: loved it"]})
    assert facts(dialogues, turns, MOVIES).reactions.is_empty()
