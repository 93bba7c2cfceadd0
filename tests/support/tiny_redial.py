"""A few short dialogues in ReDial's own schema, for tests that read the corpus from files."""

import json
from pathlib import Path


def write(path: Path, n: int = 6) -> Path:
    """Writes `n` dialogues to a `.jsonl` file. No worker occurs twice; each names one film, which no other names."""
    lines = []
    for number in range(n):
        seeker, recommender, film = 2 * number, 2 * number + 1, str(100 + number)
        messages = [
            (recommender, "Hello! What do you like?"),
            (seeker, f"Something like @{film}"),
            (recommender, f"Then try @{film}9"),
            (seeker, "I have not seen it. Thank you!"),
        ]
        answers = {film: {"suggested": 0, "seen": 1, "liked": 1}, f"{film}9": {"suggested": 1, "seen": 0, "liked": 1}}
        record = {
            "conversationId": str(number),
            "initiatorWorkerId": seeker,
            "respondentWorkerId": recommender,
            "messages": [
                {"senderWorkerId": who, "text": text, "timeOffset": n, "messageId": n}
                for n, (who, text) in enumerate(messages)
            ],
            "movieMentions": {film: f"Quiet Sea {number} (1999)", f"{film}9": f"Loud Sea {number} (2004)"},
            "initiatorQuestions": answers,
            "respondentQuestions": answers,
        }
        lines.append(json.dumps(record))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
