"""Dialogues in ReDial's own schema, a few and short ones, for tests that read the corpus from files."""

import json
from pathlib import Path


def write(path: Path, n: int = 6) -> Path:
    """`n` dialogues of pairs of strangers: each seeker names one film, each recommender another; a `.jsonl` file."""
    lines = []
    for number in range(n):
        seeker, other, film = 2 * number, 2 * number + 1, str(100 + number)
        said = [(other, "Hello! What do you like?"), (seeker, f"Something like @{film}"), (other, f"Then try @{film}9")]
        answers = {film: {"suggested": 0, "seen": 1, "liked": 1}, f"{film}9": {"suggested": 1, "seen": 0, "liked": 1}}
        record = {
            "conversationId": str(number),
            "initiatorWorkerId": seeker,
            "respondentWorkerId": other,
            "messages": [
                {"senderWorkerId": who, "text": text, "timeOffset": n, "messageId": n}
                for n, (who, text) in enumerate([*said, (seeker, "I have not seen it. Thank you!")])
            ],
            "movieMentions": {film: f"Quiet Sea {number} (1999)", f"{film}9": f"Loud Sea {number} (2004)"},
            "initiatorQuestions": answers,
            "respondentQuestions": answers,
        }
        lines.append(json.dumps(record))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
