"""A viewer for the dialogues of one or several runs: an HTML document for a notebook, or a file that a browser opens.

The document holds page, script and data; it fetches nothing and needs no server. Texts of dialogues are data, never
markup. The probability of each word comes from `simulation.replay`.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from string import Template
from typing import Any

import polars as pl

from crslib.dialogue import utterances
from crslib.errors import CrsError
from crslib.files import Progress, no_progress, writing
from crslib.metrics import Metric, all_metrics
from crslib.reporting import html, transcripts
from crslib.runs import labels
from crslib.simulation import replay
from crslib.simulation.replay import Replay
from crslib.store import Run
from crslib.web import assets

_Turn = tuple[str, int]  # dialogue_id, turn
_Rows = list[tuple[Any, ...]]
_ALL = pl.lit(True)
_HEIGHT = 800  # pixels of the frame in a notebook


def show(*runs: Run, replays: Sequence[Replay] = ()) -> html.Shown:
    """The viewer as a notebook's output. Arguments and errors are those of `rows`."""
    return html.Shown(document(runs, replays), _HEIGHT, scripts=True)


def write(
    path: Path,
    runs: Sequence[Run],
    n_replayed: int = 0,
    dialogue_ids: Sequence[str] = (),
    progress: Progress = no_progress,
) -> Path:
    """Writes the viewer of `runs` as one file; returns `path`.

    The first `n_replayed` dialogues of the first run and those of `dialogue_ids` are replayed in every run by its own
    models (`replay.look`), which takes seconds each. `progress` counts these dialogues. Raises `CrsError` for an id
    that no run has, and as `rows` and `replay.look`.
    """
    ids = [run.read("dialogues")["dialogue_id"].sort().to_list() for run in labels(runs).values()]
    if unknown := set(dialogue_ids).difference(*ids):
        raise CrsError(f"no run has a dialogue {min(unknown)!r}; the first one of {runs[0].path} is {ids[0][0]}")
    replayed = [*ids[0][:n_replayed], *dialogue_ids]
    replays = [replay.look(run, replayed, progress=progress) for run in runs] if replayed else []
    with writing(path) as temporary:
        temporary.write_text(document(runs, replays), encoding="utf-8")
    return path


def document(runs: Sequence[Run], replays: Sequence[Replay] = ()) -> str:
    """The viewer as HTML. Arguments and errors are those of `rows`."""
    data = rows(runs, replays)
    script = assets.module("element.js", "viewer.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(assets.text("viewer.html")).substitute(
        title=f"{len(data['dialogues'])} dialogues",
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        style=assets.text("page.css", "viewer.css"),
        script=script,
        data=json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),  # no text ends the element
    )


def rows(runs: Sequence[Run], replays: Sequence[Replay] = ()) -> dict[str, Any]:
    """What the page shows, ready for JSON: `runs` (`id` and `name`), `metrics` (name and title of all in their
    `scores`) and `dialogues`.

    A dialogue has the number of its run, its ids, `stop` (the reason) and `ending` (the reason in words), profile,
    hidden targets ([title, whether it was named]), `scores`, `read` (whether it was replayed), and turns: role, notes,
    `pieces` ([text, CSS classes of an item or "", log-probability in nats or null]) and `candidates` of each title
    named. `replays`: what `replay.look` returned for the runs, in the order of `runs`; may be shorter. Raises
    `CrsError` when a run holds no dialogues or is given twice.
    """
    named = labels(runs)
    dialogues = [
        dialogue
        for number, (run, replayed) in enumerate(zip_longest(named.values(), replays))
        for dialogue in _dialogues(run, number, replayed)
    ]
    scored = {metric for dialogue in dialogues for metric in dialogue["scores"]}
    ids = [run.run_id for run in named.values()]
    shown = [{"id": id_ if ids.count(id_) == 1 else name, "name": name} for name, id_ in zip(named, ids, strict=True)]
    return {"runs": shown, "metrics": titled(scored, all_metrics(*named.values())), "dialogues": dialogues}


def titled(metrics: Collection[str], defined: Mapping[str, Metric]) -> list[dict[str, str]]:
    """Name and title of metrics, in the order of `defined`; those that are not defined come last."""
    names = [name for name in defined if name in metrics] + sorted(set(metrics) - defined.keys())
    return [{"name": name, "title": defined[name].title if name in defined else name} for name in names]


def one(run: Run, dialogue_id: str) -> dict[str, Any] | None:
    """One dialogue as in `rows`, its run numbered 0; None where the run lacks it."""
    return next(_dialogues(run, 0, None, pl.col("dialogue_id") == dialogue_id), None)


def _dialogues(run: Run, number: int, replayed: Replay | None, shown: pl.Expr = _ALL) -> Iterator[dict[str, Any]]:
    dialogues = run.read("dialogues").filter(shown).sort("dialogue_id")
    turns = run.read("turns").filter(shown).sort("dialogue_id", "turn").partition_by("dialogue_id", as_dict=True)
    scores: dict[str, dict[str, float]] = {}
    if run.has("scores"):
        table = run.read("scores").filter(shown).select("dialogue_id", "metric", "value")
        for dialogue, metric, value in table.iter_rows():
            if value is not None:
                scores.setdefault(dialogue, {})[metric] = value
    tokens, candidates = _by_turn(replayed)
    for row, page in zip(dialogues.iter_rows(named=True), transcripts.pages(run, dialogues), strict=True):
        key = row["dialogue_id"]
        spoken = turns[key,].iter_rows(named=True) if (key,) in turns else ()
        yield {
            "run": number,
            "id": key,
            "profile": row["profile_id"],
            "opener": row["opener"],
            "stop": row["stop_reason"],
            **{name: page[name] for name in ("ending", "summary", "attributes", "k", "labels")},
            "targets": [[target["text"], bool(target["css"])] for target in page["targets"]],
            "scores": scores.get(key, {}),
            "read": any((key, turn) in tokens for turn in range(row["n_turns"])),
            "turns": [
                {
                    "role": turn["role"],
                    "notes": shown["notes"],
                    "pieces": _shaded(shown["pieces"], turn["text"], tokens.get((key, turn["turn"]), ())),
                    "candidates": [
                        {"title": utterances.mentions(turn["text"])[mention][0], "rows": titles}
                        for mention, titles in candidates.get((key, turn["turn"]), {}).items()
                    ],
                }
                for turn, shown in zip(spoken, page["turns"], strict=True)
            ],
        }


def _by_turn(replayed: Replay | None) -> tuple[dict[_Turn, list[tuple[str, float]]], dict[_Turn, dict[int, _Rows]]]:
    """By turn: its tokens (text, log-probability), and its candidates by the number of the mention."""
    tokens: dict[_Turn, list[tuple[str, float]]] = {}
    candidates: dict[_Turn, dict[int, _Rows]] = {}
    if replayed is not None:
        for dialogue, turn, _, piece, logprob in replayed.tokens.iter_rows():
            tokens.setdefault((dialogue, turn), []).append((piece, logprob))
        mentions = replayed.candidates.group_by("dialogue_id", "turn", "mention", maintain_order=True)
        figures = ("title", "log_prior", "log_lm", "probability", "named")
        for (dialogue, turn, mention), part in mentions:
            candidates.setdefault((dialogue, turn), {})[mention] = part.select(figures).rows()
    return tokens, candidates


def _shaded(
    pieces: Sequence[Mapping[str, str]], text: str, tokens: Sequence[tuple[str, float]]
) -> list[tuple[str, str, float | None]]:
    """`pieces` of a turn, cut at its tokens too and with their log-probabilities. Brackets of mentions are not shown.
    Tokens that do not spell the turn's `text` are ignored."""
    brackets = {at for _, start, end in utterances.mentions(text) for at in (start, start + 1, end - 2, end - 1)}
    token_of = [number for number, (piece, _) in enumerate(tokens) for _ in piece]
    shown = [number for at, number in enumerate(token_of) if at not in brackets]
    letters = [(letter, number) for number, piece in enumerate(pieces) for letter in piece["text"]]
    if [letter for letter, _ in letters] != list(utterances.plain("".join(piece for piece, _ in tokens))) or not tokens:
        return [(piece["text"], piece["css"], None) for piece in pieces]
    together = zip(letters, shown, strict=True)
    return [
        ("".join(letter for (letter, _), _ in group), pieces[piece]["css"], tokens[token][1])
        for (piece, token), group in groupby(together, key=lambda one: (one[0][1], one[1]))
    ]
