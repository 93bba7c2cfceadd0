"""`crs imitate` and `crs discriminator`: a model and people's words at the same moments, from parameters to files.

Every round of imitation draws replies by the adapter of the round before, fits discriminators anew, selects pairs and
trains on them. A finished round is not repeated, and a killed one resumes: its draws are in a journal, its training has
a checkpoint.
"""

import contextlib
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue
from crslib.dialogue.discriminator import Discriminator
from crslib.dialogue.templates import ChatTemplate
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.files import Progress, no_progress, write_parquet, writing
from crslib.identity import derive_seed, digest, file_sha256
from crslib.schemas import OPEN
from crslib.store import Run
from crslib.training import discriminator, examples, imitation, preferences, run
from crslib.training.knowledge import Knowledge
from crslib.training.parameters import DiscriminatorParameters, ImitationParameters, TrainingParameters

_FEWEST = 8  # pairs: fewer teach nothing
_MAX_TOKENS = 1024  # of a guarded example


def imitate(parameters: ImitationParameters, progress: Progress = no_progress) -> pl.DataFrame:
    """Self-play fine-tuning; fills the folder of `parameters` and returns a row per round.

    Columns: `round`; `pairs`; `log_loss` and `accuracy` of the round's discriminators; `stopped`, whether the guard
    ended the round; `people_before` and `people_after`, nats per own token of the guard dialogues. A round that was
    stopped is the last one. Folder `round-N` has journal, candidates, pairs and adapter of a round; the folder itself
    gets `ROLE.gguf` and card of the last one. `progress` counts the contexts of a round, then its tokens.

    The guard dialogues are those of other people than the rest, chosen as `crs train` chooses its validation with the
    same seed and dialogues; none of them is a context. Raises `CrsError` for unusable files, settings or data.
    """
    run.need_extra()
    corpus = run.training_corpus(parameters)
    everything = run.chosen(corpus, parameters)
    dialogues, guarded = split(everything, parameters)
    catalog = Catalog(corpus.items, corpus.domain)
    lacking = run.lacking(parameters)
    people = preferences.human_contexts(dialogues, parameters.role, catalog, lacking, leaving=True)
    held_out = _examples(guarded, parameters, Knowledge(catalog.items, everything, catalog.domain), lacking)
    start, limit, rows = parameters.start, None, []
    for number in range(1, parameters.rounds + 1):
        folder = parameters.folder / f"round-{number}"
        key = _key(parameters, start, number, [*dialogues, *guarded])
        figures = _finished(folder, key)
        if figures is None:
            seed = derive_seed(parameters.seed, "round", number)
            pairs, about = make_pairs(parameters, people, start, folder, seed, progress)
            source = (
                f"what people said in {corpus.credit} as chosen, its own replies as rejected, round {number}; "
                f"discriminators with a log loss of {about['log_loss']:.3f} and accuracy {about['accuracy']:.2f} on "
                "dialogues left out"
            )
            stage = run.Stage(
                start,
                folder,
                seed,
                source,
                corpus.domain.name,
                held_out,
                limit,
                parameters.slack,
                {"key": key, **about},
            )
            figures = run.optimise(parameters, pairs, stage, progress)
        rows.append((number, *(figures[name] for name in _FIGURES), *(figures[side]["people"] for side in _SIDES)))
        start, limit = folder / f"{parameters.role}.gguf", figures["limit"]
        if figures["stopped"]:
            break
    _publish(start.parent, parameters)
    schema = ["round", *_FIGURES, *(f"people_{side}" for side in _SIDES)]
    return pl.DataFrame(rows, schema=schema, orient="row")


@with_config(OPEN)
class _Round(TypedDict):
    """`figures.json` of a round; `before`, `after`: nats per own token by kind of dialogue."""

    key: str
    pairs: int
    log_loss: float
    accuracy: float
    stopped: bool
    limit: float | None
    before: dict[str, float]
    after: dict[str, float]


_ROUND = TypeAdapter(_Round)
_FIGURES, _SIDES = ("pairs", "log_loss", "accuracy", "stopped"), ("before", "after")


def split(dialogues: Sequence[Dialogue], parameters: ImitationParameters) -> tuple[list[Dialogue], list[Dialogue]]:
    """Dialogues to learn from, and those that are guarded; no person is on both sides.

    Raises `CrsError` where either side would be empty.
    """
    rows = [
        (one.dialogue_id, one.user, one.recommender)
        for one in dialogues
        if any(turn.role == parameters.role for turn in one.turns)
    ]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(("dialogue_id", "worker", "partner"), pl.String), orient="row")
    share = max(float(TrainingParameters.model_fields["validation"].default), parameters.guard / max(len(frame), 1))
    if share >= 1:
        raise CrsError(f"guard = {parameters.guard} leaves none of {len(frame)} dialogues to learn from; give fewer")
    training, held_out = examples.split(frame, share, parameters.seed)
    ids = sorted(held_out["dialogue_id"], key=lambda one: derive_seed(parameters.seed, "guard", one))[
        : parameters.guard
    ]
    learned, guarded = set(training["dialogue_id"]), set(ids)
    sides = [[one for one in dialogues if one.dialogue_id in side] for side in (learned, guarded)]
    if not all(sides):
        raise CrsError(f"{len(frame)} dialogues are too few to guard some of other people; give more")
    return sides[0], sides[1]


def make_pairs(
    parameters: ImitationParameters,
    people: Sequence[preferences.Context],
    start: Path,
    folder: Path,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The pairs of a round (columns of `preferences.PAIRS`), and its figures `pairs`, `log_loss` and `accuracy`.

    `people`: contexts of all dialogues to learn from; some of them are continued by the adapter `start`. `folder` gets
    `journal.jsonl`, `candidates.parquet` with the log-odds of every draw, and `pairs.jsonl`. Raises `CrsError` for
    files that cannot be read or written, and for too few pairs.
    """
    contexts = imitation.sample(people, parameters.contexts, seed)
    spoken = imitation.sample(people, parameters.contexts * parameters.draws, seed)  # as many turns as the model's
    with run.drawing(parameters, start, folder, imitation.DECODING) as engine:
        with Run(folder).journal() as journal:
            drawn = preferences.candidates(contexts, engine, parameters.draws, seed, journal, progress)
        scored, judges = imitation.with_log_odds(spoken, contexts, drawn)
        pairs = imitation.select_pairs(contexts, scored, engine)
    write_parquet(scored, folder / "candidates.parquet")
    with writing(folder / "pairs.jsonl") as temporary:
        preferences.messages(contexts, pairs).write_ndjson(temporary)
    if len(pairs) < _FEWEST:
        raise CrsError(f"{len(contexts)} contexts give {len(pairs)} pairs, too few to learn from; give more contexts")
    figures = {name: sum(judge.about[name] for judge in judges) / len(judges) for name in ("log_loss", "accuracy")}
    return pairs, {"pairs": len(pairs), **figures}


def fit_discriminator(parameters: DiscriminatorParameters, progress: Progress = no_progress) -> Discriminator:
    """The discriminator of people's turns and a model's; writes `ROLE.json`.

    The model's are those of a run, or an adapter's replies at moments of the same people's dialogues. Its weights are
    those of words and pairs of words that were said in several turns. `progress` counts contexts. Raises `CrsError` for
    files that cannot be read or written, and for too few dialogues.
    """
    corpus = run.training_corpus(parameters)
    dialogues = run.chosen(corpus, parameters)
    if parameters.run:
        turns, whose = _with_turns_of_run(dialogues, parameters), {"run": Run.open(parameters.run).run_id}
    else:
        catalog = Catalog(corpus.items, corpus.domain)
        turns = _with_replies(dialogues, catalog, parameters, progress)
        whose = {"adapter_sha256": _sha256(parameters.start)}
    fitted = discriminator.fit(turns)
    at = "those of a run" if parameters.run else "the adapter's own at the same moments"
    origin = {
        "role": parameters.role,
        **whose,
        "data": f"turns of people in {corpus.credit}, and {at}",
        "licence": "statistics of words; attribution to the data above",
    }
    judge = Discriminator(fitted.intercept, fitted.weights, origin | dict(fitted.about))
    judge.write(parameters.folder / f"{parameters.role}.json")
    return judge


def _with_turns_of_run(dialogues: Sequence[Dialogue], parameters: DiscriminatorParameters) -> pl.DataFrame:
    """All turns of the role, people's and those of a run: the columns of `discriminator.SCHEMA`."""
    rows = [
        (one.dialogue_id, turn.text, True) for one in dialogues for turn in one.turns if turn.role == parameters.role
    ]
    people = pl.DataFrame(rows, schema=discriminator.SCHEMA, orient="row")
    said = Run.open(parameters.run).read("turns").filter(role=parameters.role)
    return pl.concat([people, said.select("dialogue_id", "text", human=pl.lit(False))])


def _with_replies(
    dialogues: Sequence[Dialogue], catalog: Catalog, parameters: DiscriminatorParameters, progress: Progress
) -> pl.DataFrame:
    """Turns of people, and replies of an adapter where people spoke: the columns of `discriminator.SCHEMA`."""
    lacking = run.lacking(parameters)
    people = preferences.human_contexts(dialogues, parameters.role, catalog, lacking)
    contexts = imitation.sample(people, parameters.contexts, parameters.seed)
    work = parameters.folder / f"{parameters.role}-draws"
    with run.drawing(parameters, parameters.start, work, imitation.DECODING) as engine, Run(work).journal() as journal:
        drawn = preferences.candidates(contexts, engine, parameters.draws, parameters.seed, journal, progress)
    spoken = imitation.sample(people, parameters.contexts * parameters.draws, parameters.seed)
    return imitation.turns(spoken, contexts, drawn)


# ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(
    dialogues: Sequence[Dialogue], parameters: ImitationParameters, known: Knowledge, lacking: Sequence[str]
) -> pl.DataFrame:
    """What people said in the guard dialogues, as `crs train` reads it, in views that lack some parts."""
    with contextlib.closing(llama.Model(llama.model_path(parameters.model))) as tokenizer:
        template = ChatTemplate(*tokenizer.chat_template)
        return examples.examples(
            dialogues, parameters.role, tokenizer, template, known, without=lacking, max_tokens=_MAX_TOKENS
        )


def _key(parameters: ImitationParameters, start: Path, number: int, dialogues: Sequence[Dialogue]) -> str:
    """What stands for all that a round depends on: parameters but for the number of rounds, files and dialogues."""
    given = {name: value for name, value in parameters.identity().items() if name != "rounds"}
    files = [file_sha256(llama.model_path(parameters.model)), _sha256(start)]
    texts = [[one.dialogue_id, [turn.text for turn in one.turns]] for one in dialogues]
    return digest([given, files, number, texts], "round")


def _sha256(start: Path) -> str:
    return file_sha256(start if start.is_file() else start / "adapter_model.safetensors")


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The figures of a round that has ended under the same key; they are the last file that a training writes."""
    path = folder / "figures.json"
    if not path.exists():
        return None
    try:
        figures: Any = json_files.read_as(path, _ROUND, "the round is trained again")
    except CrsError as error:
        warnings.warn(str(error), stacklevel=2)
        return None
    return figures if figures["key"] == key else None


def _publish(last: Path, parameters: ImitationParameters) -> None:
    """Copies the adapter and the card of the folder of the last round."""
    for name in (f"{parameters.role}.gguf", "README.md"):
        with writing(parameters.folder / name) as temporary:
            shutil.copyfile(last / name, temporary)
