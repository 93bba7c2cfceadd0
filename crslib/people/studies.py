"""From folders that a person names to a study: one that exists, or one of the runs in them."""

from collections.abc import Sequence
from pathlib import Path

from crslib.errors import CrsError
from crslib.people.pairs import read_questions
from crslib.people.votes import Study
from crslib.store import Run


def find(paths: Sequence[Path], n_pairs: int, seed: int, folder: Path, redial: Path | None = None) -> Study:
    """The study that is meant: the one in the only path, or the one of these runs below `folder`, made if need be.

    `redial`: ReDial's zip or folder, for pairs with a human dialogue on one side.

    Raises `CrsError` as `runs`, and when no such pairs can be built.
    """
    if len(paths) == 1 and (paths[0] / "study.json").exists():
        return Study(paths[0])
    return Study.of(runs(paths), n_pairs, seed, read_questions(), folder, redial)


def runs(paths: Sequence[Path]) -> dict[str, Run]:
    """Condition → run: of a sweep's folder, of run folders, or of the newest sweep when no path is given.

    Runs of the same condition are told apart by their ids. Raises `CrsError` for a folder without dialogues.
    """
    if not paths or (len(paths) == 1 and (paths[0] / "sweep.json").exists()):
        from crslib import comparison  # and with it all metrics: seconds, for who names runs

        return dict(comparison.read(str(paths[0]) if paths else "").runs)
    return named([Run(path.resolve()) for path in paths])


def named(found: Sequence[Run]) -> dict[str, Run]:
    """Condition → run, in the same order; runs of the same condition are told apart by their ids. Raises `CrsError` for
    a folder without dialogues, and for one that is named twice."""
    for run in found:
        if not run.has("dialogues"):
            raise CrsError(f"{run.path} holds no dialogues; name the folder of a run that ended well")
    names = [run.info.get("parameters", {}).get("condition", run.path.name) for run in found]
    named = {
        f"{name} {run.run_id[:6]}" if names.count(name) > 1 else name: run
        for name, run in zip(names, found, strict=True)
    }
    if len(named) < len(found):
        raise CrsError("a run is named twice; give different runs")
    return named
