"""Dialogues of one or several runs to look at: one HTML document for a notebook, or a file that opens by double-click.

It holds page, script and data, fetches nothing and needs no server; what a dialogue says is data to it, never markup.
Knows nothing of how dialogues are read again (`crslib.simulation.replay`): it shows what was found.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from string import Template
from typing import Any

from crslib import store
from crslib.dialogue import utterances
from crslib.metrics import METRICS
from crslib.reporting import html
from crslib.simulation.replay import Replay
from crslib.store import Run, writing
from crslib.web import assets

_Turn = tuple[str, int]  # dialogue_id, turn
_Rows = list[tuple[Any, ...]]
_HEIGHT = 800  # pixels of the frame in a notebook


def show(*runs: Run, inside: Sequence[Replay] = ()) -> html.Shown:
    """The viewer for a notebook's output; see `rows`."""
    return html.Shown(document(runs, inside), _HEIGHT, scripts=True)


def write(path: Path, runs: Sequence[Run], inside: Sequence[Replay] = ()) -> Path:
    """Writes the viewer as one file; see `rows`. Returns `path`."""
    with writing(path) as temporary:
        temporary.write_text(document(runs, inside), encoding="utf-8")
    return path


def document(runs: Sequence[Run], inside: Sequence[Replay] = ()) -> str:
    """The viewer as HTML; see `rows`."""
    data = rows(runs, inside)
    script = assets.module("element.js", "viewer.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(assets.text("viewer.html")).substitute(
        title=f"{len(data['dialogues'])} dialogues",
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        style=assets.text("page.css", "viewer.css"),
        script=script,
        data=json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),  # no tag can end it
    )


def rows(runs: Sequence[Run], inside: Sequence[Replay] = ()) -> dict[str, Any]:
    """What the page shows, ready for JSON: `runs` (their names), `metrics` (name and title of all that their `scores`
    have) and `dialogues`.

    A dialogue has the number of its run, its ids, stop reason, profile, hidden targets ([title, whether it was named]),
    `scores`, whether it was `read`, and turns: role, notes, `pieces` ([text, kind of item or "", log-probability or
    null]) and `candidates` of each title named. `inside`: a reading of each run, in the order of `runs`; those that are
    missing have none. Raises `CrsError` when a run holds no dialogues or is named twice.
    """
    named = store.name_runs(runs)
    dialogues = [
        dialogue
        for number, (run, seen) in enumerate(zip_longest(named.values(), inside))
        for dialogue in _dialogues(run, number, seen)
    ]
    found = {metric for dialogue in dialogues for metric in dialogue["scores"]}
    known = [name for name in METRICS if name in found] + sorted(found - METRICS.keys())
    metrics = [{"name": name, "title": METRICS[name].title if name in METRICS else name} for name in known]
    return {"runs": list(named), "metrics": metrics, "dialogues": dialogues}


def _dialogues(run: Run, number: int, inside: Replay | None) -> Iterator[dict[str, Any]]:
    dialogues = run.read("dialogues").sort("dialogue_id")
    turns = run.read("turns").sort("dialogue_id", "turn").partition_by("dialogue_id", as_dict=True)
    scores: dict[str, dict[str, float]] = {}
    if run.has("scores"):
        for dialogue, metric, value in run.read("scores").select("dialogue_id", "metric", "value").iter_rows():
            if value is not None:
                scores.setdefault(dialogue, {})[metric] = value
    tokens, candidates = _by_turn(inside)
    for row, page in zip(dialogues.iter_rows(named=True), html.pages(run, dialogues), strict=True):
        key = row["dialogue_id"]
        said = turns[key,].iter_rows(named=True) if (key,) in turns else ()
        yield {
            "run": number,
            "id": key,
            "profile": row["profile_id"],
            "opener": row["opener"],
            "stop": row["stop_reason"],
            **{name: page[name] for name in ("ending", "summary", "attributes", "k")},
            "targets": [[target["text"], bool(target["css"])] for target in page["targets"]],
            "scores": scores.get(key, {}),
            "read": any((key, turn) in tokens for turn in range(row["n_turns"])),
            "turns": [
                {
                    "role": turn["role"],
                    "notes": shown["notes"],
                    "pieces": _shaded(shown["pieces"], turn["text"], tokens.get((key, turn["turn"]), ())),
                    "candidates": [
                        {"title": utterances.mentions(turn["text"])[mention][0], "rows": found}
                        for mention, found in candidates.get((key, turn["turn"]), {}).items()
                    ],
                }
                for turn, shown in zip(said, page["turns"], strict=True)
            ],
        }


def _by_turn(inside: Replay | None) -> tuple[dict[_Turn, list[tuple[str, float]]], dict[_Turn, dict[int, _Rows]]]:
    """Tokens, and candidates by number of the mention, of a reading's turns."""
    tokens: dict[_Turn, list[tuple[str, float]]] = {}
    candidates: dict[_Turn, dict[int, _Rows]] = {}
    if inside is not None:
        for dialogue, turn, _, piece, logprob in inside.tokens.iter_rows():
            tokens.setdefault((dialogue, turn), []).append((piece, logprob))
        mentions = inside.candidates.group_by("dialogue_id", "turn", "mention", maintain_order=True)
        figures = ("title", "log_prior", "log_lm", "probability", "named")
        for (dialogue, turn, mention), part in mentions:
            candidates.setdefault((dialogue, turn), {})[mention] = part.select(figures).rows()
    return tokens, candidates


def _shaded(
    pieces: Sequence[Mapping[str, str]], text: str, tokens: Sequence[tuple[str, float]]
) -> list[tuple[str, str, float | None]]:
    """`pieces` of a turn cut at its tokens too. A token of brackets alone is not seen; tokens that do not make up the
    turn's `text` are left out."""
    hidden = {at for _, start, end in utterances.mentions(text) for at in (start, start + 1, end - 2, end - 1)}
    whose = [number for number, (piece, _) in enumerate(tokens) for _ in piece]
    seen = [number for at, number in enumerate(whose) if at not in hidden]
    letters = [(letter, number) for number, piece in enumerate(pieces) for letter in piece["text"]]
    if [letter for letter, _ in letters] != list(utterances.plain("".join(piece for piece, _ in tokens))) or not tokens:
        return [(piece["text"], piece["css"], None) for piece in pieces]
    together = zip(letters, seen, strict=True)
    return [
        ("".join(letter for (letter, _), _ in group), pieces[piece]["css"], tokens[token][1])
        for (piece, token), group in groupby(together, key=lambda one: (one[0][1], one[1]))
    ]
