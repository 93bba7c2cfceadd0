"""Small files in the forms of public corpora of human dialogues. All words and most titles are invented."""

import csv
import io
import json
from pathlib import Path
from typing import Any

PERSONA = (
    "Slow stories about families won the seeker over in Heat. Loud sequels tire them. "
    "They once began The Quiet  Harbour, and left. They would watch anything with Ada Moon."
)


def pearl(path: Path) -> Path:
    """Two dialogues of one seeker: in the first the film to be found is named, in the second it is not."""
    record = {
        "data_id": 11,
        "user_id": "ur9",
        "user_persona": PERSONA,
        "seen_movie_titles": ["Heat (1995)", "Up (2009)"],
        "gt_movie_title": "The Quiet Harbour (1996)",
        "gt_genre": "Drama, Romance, Mystery",
        "gt_director": "Ada Moon",
        "gt_cast": "Ben Vale, Cy Orr",
        "gt_abstract": "Title: The Quiet Harbour (1996)\nReview: You will love it.",
        "dialogue": [
            "Seeker: Hi! I want something slow\u2028like Heat. What's up?",
            "Recommender: Have you seen 'The Quiet Harbour'?",
            "Seeker: No. Up was too sweet for me, though.",
            "Recommender: Then watch The Quiet Harbour (1996): no sweets.",
        ],
    }
    other = {**record, "data_id": 12, "dialogue": ["Seeker: Hello", "Recommender: Hi"], "gt_genre": ""}
    path.write_text(json.dumps([record, other]), encoding="utf-8")
    return path


def opendialkg(path: Path) -> Path:
    """Three dialogues: about films (one of them a book's), about a book, about a song."""

    def chat(sender: str, message: str) -> dict[str, Any]:
        return {"type": "chat", "sender": sender, "message": message}

    def walk(sender: str, *triples: list[str]) -> dict[str, Any]:
        metadata = {"path": [0.5, list(triples), "the path in words"]}
        return {"type": "action", "sender": sender, "action_id": "kgwalk/choose_path", "metadata": metadata}

    talks = [
        [
            chat("user", 'I like "Heat" a lot'),
            walk(
                "assistant",
                ["Heat", "starred_actors", "Al Pacino"],
                ["Al Pacino", "~starred_actors", "Insomnia (Film)"],
            ),
            chat("assistant", "Al Pacino is in Insomnia,\nand in heat waves"),
            {"type": "action", "sender": "user", "action_id": "meta_thread/send_meta_message", "metadata": {}},
            chat("user", "Who wrote Dune?"),
            walk("assistant", ["Dune", "written_by", "Frank Herbert"]),
        ],
        [
            chat("user", "A book by Ursula Hill, please"),
            walk("assistant", ["Ursula Hill", "~written_by", "The Slow River"]),
            chat("assistant", "Try The Slow River, or Insomnia"),
            walk("assistant", ["Insomnia (Film)", "written_by", "Some Body"]),
        ],
        [chat("user", "Any songs?"), walk("assistant", ["Mara", "has_genre", "Pop"]), chat("assistant", "Mara sings")],
    ]
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["Messages", "User Rating", "Assistant Rating"])
    writer.writerows([json.dumps(talk), "[1, null]", "[5]"] for talk in talks)
    path.write_bytes(rows.getvalue().encode())
    return path


INSPIRED = (
    "dialog_id\tutt_id\tspeaker\tturn_id\ttext\ttext_with_placeholder\tmovies\tgenres\texpert_label\tcase\n"
    "a.pkl\t1\tRECOMMENDER\t1\tHi there. What do you like?\tHi there.\t\t\tno_strategy\treject\n"
    "a.pkl\t2\tSEEKER\t1\tQUOTATION_MARKHeatQUOTATION_MARK\u2028and Up.\t[MOVIE]\tHeat (1995); Up (2009)\t\t\treject\n"
    "a.pkl\t3\tSEEKER\t1\tnothing \x85old\t\t\t\t\treject\n"
    "a.pkl\t4\tRECOMMENDER\t2\tSee Notting Hil!\t\tNotting Hill (1999)\tdrama\tcredibility\treject\n"
    "b.pkl\t1\tSEEKER\t1\tBye\t\t\t\t\taccept\n"
)


def inspired(path: Path) -> Path:
    """Two dialogues with separators of lines inside texts."""
    path.write_bytes(INSPIRED.encode())
    return path


def ccpe(path: Path) -> Path:
    """One conversation; a title has a line break before it, a person and an inner title are annotated, too."""
    text = "I liked\nking kong (the old one) with Fay"

    def segment(start: int, end: int, kind: str, entity: str) -> dict[str, Any]:
        annotations = [{"annotationType": kind, "entityType": entity}]
        return {"startIndex": start, "endIndex": end, "text": text[start:end], "annotations": annotations}

    utterances = [
        {"index": 1, "speaker": "USER", "text": text, "segments": [
            segment(8, 17, "ENTITY_NAME", "MOVIE_OR_SERIES"),
            segment(13, 17, "ENTITY_NAME", "MOVIE_OR_SERIES"),
            segment(0, 17, "ENTITY_PREFERENCE", "MOVIE_OR_SERIES"),
            segment(37, 40, "ENTITY_NAME", "PERSON"),
        ]},
        {"index": 0, "speaker": "ASSISTANT", "text": "What films do you like?"},
        {"index": 2, "speaker": "ASSISTANT", "text": "Why?", "segments": []},
    ]  # fmt: skip
    path.write_text(json.dumps([{"conversationId": "CCPE-1a", "utterances": utterances}]), encoding="utf-8")
    return path


def cikm(path: Path, names: bool = True) -> Path:
    """Two conversations; of the second only the answer has a line of its own."""
    lines = [
        {"dialog_id": "t0", "turn_id": "t0_0", "context": [""], "resp": "Films like Heat?", "is_user": 1, "rec": [4]},
        {"dialog_id": "t0", "turn_id": "t0_1", "context": ["", "Films like Heat?"], "resp": "up, or\u2028the matrix",
         "is_user": 0, "rec": [5, "tt6", 99], "entity": [5], "entity_name": ["up"]},
        {"dialog_id": "t1", "turn_id": "t1_2", "context": ["Any horror?", "How old?", "New"], "resp": "Nope then",
         "is_user": 0, "rec": [7]},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    if names:
        ids = {"Heat (1995)": 4, "Up (2009)": 5, "<http://dbpedia.org/resource/The_Matrix>": "tt6", "Nope (2022)": 7}
        (path.parent / "entity2id.json").write_text(json.dumps(ids), encoding="utf-8")
    return path


def dialoguekit(path: Path) -> Path:
    """One dialogue with an annotated title."""
    said = [
        {
            "participant": "USER",
            "utterance": "I look for something like Heat",
            "annotations": [["TITLE", "Heat (1995)"]],
        },
        {"participant": "AGENT", "utterance": "How about Up?", "annotations": [["TITLE", "Up (2009)"]]},
    ]
    path.write_text(
        json.dumps([{"conversation ID": "k1", "user": {"id": "u1"}, "conversation": said}]), encoding="utf-8"
    )
    return path


def redial(path: Path, hub: bool) -> Path:
    """The same two dialogues in ReDial's official form, or in the hub's: lists of records."""

    def shaped(by_id: dict[str, Any]) -> Any:
        if not hub:
            return by_id
        fields = [value if isinstance(value, dict) else {"movieName": value} for value in by_id.values()]
        return [{"movieId": item_id, **rest} for item_id, rest in zip(by_id, fields, strict=True)]

    lines = []
    for number in (1, 2):
        said = [(1, "Hi, I liked @111776 a lot"), (2, "Then try @99583 or @84273"), (1, "Thanks, bye")]
        answers = {
            "111776": {"suggested": 0, "seen": 1, "liked": 1},
            "99583": {"suggested": 1, "seen": 0, "liked": 1},
            "84273": {"suggested": 1, "seen": 1, "liked": 0},
        }
        record = {
            "movieMentions": shaped(
                {"111776": "Super Troopers (2001)", "99583": "Iron Man  (2008)", "84273": "Pineapple Express"}
            ),
            "respondentQuestions": shaped(answers if number == 1 else {}),
            "initiatorQuestions": shaped(answers if number == 1 else {}),
            "messages": [
                {"timeOffset": n, "text": text, "senderWorkerId": 10 * number + who, "messageId": n}
                for n, (who, text) in enumerate(said)
            ],
            "conversationId": number if hub else str(number),
            "respondentWorkerId": 10 * number + 2,
            "initiatorWorkerId": 10 * number + 1,
        }
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
