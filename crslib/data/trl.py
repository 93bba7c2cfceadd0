"""Files that TRL trains on: messages for SFT, pairs for DPO, splits by person, and a data card.

Strict chat templates take every row: after the system message the other party begins, roles alternate, and no message
is empty. Where the trained role begins, `OPENING` stands for the other party's message; a user that leaves ends its
last message with `LEAVE`. A model that was trained on such a file reads the same in a simulation that tells it
`data/prompts/trained.md`. No text of people, data or models can become a control token.

Knows nothing of runs and corpora: `exports` has the dialogues of a run, `training.corpus` those of people.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from crslib.config import ExportParameters
from crslib.dialogue.control_tokens import escaped, unescaped
from crslib.dialogue.prompts import LEAVE
from crslib.dialogue.templates import without_system
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import Message
from crslib.errors import CrsError
from crslib.files import writing
from crslib.identity import derive_seed

OPENING = "(You speak first.)"
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
"""The type of a list of messages as TRL reads them."""
PAIRS: dict[str, Any] = {"context_id": pl.String, **dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES)}
"""The columns of pairs for DPO."""
SPLITS = ("train", "validation", "test")
_NAMES = ("user", "recommender", "user-dpo", "recommender-dpo")
_HEAD = [
    "# Dialogues of a seeker and a recommender, for TRL",
    "",
    "JSON lines that `datasets` loads. The trained role is `assistant`, the other party is `user`. Roles alternate and "
    f"`user` begins: where the trained role opens a dialogue, `{OPENING}` stands before it. No message is empty: a "
    f"user that leaves ends its last message with `{LEAVE}`. Item names stand in `[[…]]`. Train on `messages` with "
    "`SFTConfig(assistant_only_loss=True)`, on `prompt`, `chosen` and `rejected` with `DPOTrainer`. In a simulation "
    "give the model `data/prompts/trained.md` as its prompt: it then reads what it read in training.",
]
_TEMPLATES = {
    "keep": "those with a system role (ChatML, Qwen, Llama 2 and 3, Gemma 3, Mistral since v0.3). Gemma 1 and 2 and "
    "older ones of Mistral have none and refuse the file: export it with `--system fold`",
    "fold": "all, also those without a system role (Gemma 1 and 2, older ones of Mistral): the system text is the "
    "beginning of the first user message",
}


@dataclass(frozen=True)
class Written:
    """The file with the training split, and what it holds and lacks, in sentences."""

    path: Path
    lines: list[str]


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def conversation(messages: Sequence[Message], *, left: bool = False, fold: bool = False) -> list[dict[str, str]]:
    """The messages of a view, the system's first, as TRL reads them. `left`: the party leaves with its last message,
    or after the last one; `fold`: the system text begins the first user message."""
    texts = [Message(message.role, escaped(message.text)) for message in messages]
    if left:
        said = texts.pop().text if texts[-1].role == "assistant" else ""
        texts.append(Message("assistant", f"{said} {LEAVE}".strip()))
    if len(texts) == 1 or texts[1].role == "assistant":
        texts.insert(1, Message("user", OPENING))
    return [{"role": one.role, "content": one.text} for one in (without_system(texts) if fold else texts)]


def restored(messages: Sequence[Message], role: str) -> tuple[list[Message], bool]:
    """The messages of the view of `role` from those that `conversation` made of it, and whether the party left.

    In older files a user that leaves has an empty last message, and nothing is escaped.
    """
    texts, left = [*messages], False
    if texts[0].role == "user":
        system, _, first = texts[0].text.partition("\n\n")
        texts[:1] = [Message("system", system), Message("user", first)]
    if texts[1:2] == [Message("user", OPENING)]:
        del texts[1]
    if role == USER and texts[-1].role == "assistant":
        words = texts[-1].text.removesuffix(LEAVE)
        left = words != texts[-1].text or not words
        texts[-1:] = [Message("assistant", words.strip())] if words.strip() else []
    return [Message(message.role, unescaped(message.text)) for message in texts], left


def _fault(messages: Sequence[Mapping[str, str]]) -> str:
    """Why nothing can be trained on a conversation, or a strict template refuses it; empty if neither."""
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if "assistant" not in roles:
        return "the role says nothing"
    if not all(message["content"].strip() for message in messages):
        return "an utterance is empty"
    expected = [("user", "assistant")[place % 2] for place in range(len(roles))]
    return "" if roles == expected else "a party speaks twice in a row"


MANIFEST = "manifest.parquet"  # of a curated set: which split each dialogue is in


def split_of(person: str, parameters: ExportParameters) -> str:
    """The split of a person: the same in all exports with the same seed and shares, whatever the run and the role."""
    chance = derive_seed(parameters.seed, "split", person) / 0xFFFFFFFF
    if chance < parameters.test:
        return "test"
    return "validation" if chance < parameters.test + parameters.validation else "train"


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(frame: pl.DataFrame, role: str, folder: Path, parameters: ExportParameters, origin: Sequence[str]) -> Written:
    """Writes the rows of `frame` for training `role`, a file for each split, and the card of all files in `folder`.

    `frame`: `messages`, or `prompt`, `chosen` and `rejected`, of type `MESSAGES`; `person`, who is in one split only
    (null: not known); `split`, null for a dialogue between people of two; other columns are written as they are.
    `origin`: where the dialogues come from and their licence, in sentences of the card. Rows that TRL or a template
    would refuse are left out, and counted. Raises `CrsError` when no row is left to train on, a file cannot be written,
    or the folder has a card of something else.
    """
    card = folder / "README.md"
    if card.exists() and _HEAD[0] not in card.read_text(encoding="utf-8", errors="replace"):
        raise CrsError(f"{card} is of something else and would be replaced; give another folder")
    is_sft = "messages" in frame.columns
    name, what = (role, "dialogues") if is_sft else (f"{role}-dpo", "pairs")
    faults = [_fault_of(row) for row in frame.iter_rows(named=True)]
    rows = frame.with_columns(fault=pl.Series(faults, dtype=pl.String)).filter(fault="").drop("fault")
    counted = sorted(Counter(filter(None, faults)).items())
    lines = [f"{n} of {len(frame)} {what} left out: {fault}" for fault, n in counted]
    if rows.filter(split="train").is_empty():
        reasons = "; ".join(lines) or f"{len(rows)} are held out for validation and test"
        raise CrsError(f"nothing is left for training in {name}.jsonl ({reasons}); give more dialogues")
    if n_escaped := sum(map(_is_escaped, rows.drop("person", "split").iter_rows(named=True))):
        lines.append(
            f"{n_escaped} {what} hold texts that look like control tokens; a blank after the first sign "
            "(`< |im_end|>`) keeps them texts"
        )
    files = []
    for split in SPLITS:
        path, part = _path(folder, name, split), rows.filter(split=split)
        if part.is_empty():
            path.unlink(missing_ok=True)  # of an earlier export with other splits
            continue
        with writing(path) as temporary:
            part.drop("person", "split").write_ndjson(temporary)
        n_people = part["person"].drop_nulls().n_unique()
        people = f"; people: {n_people}, none of them in another split" if n_people else ""
        files.append(f"`{path.name}` ({split}): {len(part)} {what}{people}")
    about = [*files, *lines, f"Chat templates that take it: {_TEMPLATES[parameters.system]}", _knows(role), *origin]
    kind = "messages for SFT" if is_sft else "preferences for DPO"
    with writing(folder / f"{name}.md") as temporary:
        text = "\n".join([f"## {name}: {kind} of the {role}", "", *(f"- {line}." for line in about)])
        temporary.write_text(text + "\n", encoding="utf-8")
    with writing(card) as temporary:
        temporary.write_text(_card(folder), encoding="utf-8")
    return Written(_path(folder, name, "train"), lines)


def _fault_of(row: Mapping[str, Any]) -> str:
    """Why a row is left out; empty where it is not."""
    if row["split"] is None:
        return "the two people are in different splits"
    whole = (
        [row["messages"]] if "messages" in row else [[*row["prompt"], *row[side]] for side in ("chosen", "rejected")]
    )
    return next(filter(None, map(_fault, whole)), "")


def _is_escaped(row: Mapping[str, Any]) -> bool:
    texts = (message["content"] for value in row.values() if isinstance(value, list) for message in value)
    return any(unescaped(text) != text for text in texts)


def _knows(role: str) -> str:
    if role == USER:
        return "Private: holds the user's summary, wishes and notes; no recommender may be trained on it"
    return "Holds what the recommender was shown: the dialogue, and nothing of the user's profile and notes"


def _path(folder: Path, name: str, split: str) -> Path:
    return folder / (f"{name}.jsonl" if split == "train" else f"{name}-{split}.jsonl")


def _card(folder: Path) -> str:
    """README.md: the splits for `datasets`, and the sections of all exports in the folder."""
    names = [name for name in _NAMES if (folder / f"{name}.md").is_file()]
    configs = [
        {
            "config_name": name,
            "data_files": [
                {"split": split, "path": path.name}
                for split in SPLITS
                if (path := _path(folder, name, split)).is_file()
            ],
        }
        for name in names
    ]
    head = yaml.safe_dump(
        {"configs": configs, "license": "other", "tags": ["conversational-recommendation", "trl"]}, sort_keys=False
    )
    sections = [(folder / f"{name}.md").read_text(encoding="utf-8") for name in names]
    return "\n".join(["---", head + "---", *_HEAD, "", *sections])
