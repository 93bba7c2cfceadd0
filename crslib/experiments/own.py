"""A recommender of one's own beside another one: runs of `crslib.talk`, evaluated and compared in one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from crslib.config import resolve
from crslib.dialogue.domain import of_run
from crslib.experiments import comparison, sweep
from crslib.identity import digest
from crslib.metrics import Evaluation, evaluation, leakage, reference
from crslib.metrics.own import Function
from crslib.store import Run


def evaluate(run: Run, *, n_bootstrap: int, seed: int, metrics: Sequence[Function] = ()) -> Evaluation:
    """All metrics of a run that need neither models nor human texts, also written into its folder, with the audit.

    `metrics`: those of one's own. Raises `CrsError` when a table is missing, and as `own.parts`.
    """
    profiles, holdouts, items, ratings = (run.read(name) for name in ("profiles", "holdouts", "items", "ratings"))
    dialogues, turns, prompts = (run.read(name) for name in ("dialogues", "turns", "prompts"))
    human = reference.read(resolve(run.info.get("parameters", {}).get("human", "data/human")))
    domain = of_run(run)
    audit = leakage.audit(prompts, profiles, holdouts, items, dialogues, turns, domain)
    run.update(audit=audit.counts)
    tables = evaluation.evaluate(
        run.run_id, profiles, holdouts, items, ratings, dialogues, turns, prompts, human, domain,
        n_bootstrap=n_bootstrap, seed=seed, metrics=metrics, audit=audit,
    )  # fmt: skip
    tables.write(run)
    return tables


def compare(
    runs: Mapping[str, Run], folder: Path, *, n_bootstrap: int, seed: int, metrics: Sequence[Function] = ()
) -> comparison.Sweep:
    """Evaluates runs (name → run), also by metrics of one's own, and reads them side by side, the first against the
    others.

    `folder` gets a `sweep.json`, so that `crs look`, `crs judge` and `crs people` take it too.
    """
    for run in runs.values():
        evaluate(run, n_bootstrap=n_bootstrap, seed=seed, metrics=metrics)
    values = [{"condition": name} for name in runs]
    sweep_id = digest([[run.run_id for run in runs.values()], values], "own")
    sweep.write(folder, sweep_id, [(run, run.run_id, "success") for run in runs.values()], values)
    return comparison.read(str(folder))
