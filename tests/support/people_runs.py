"""Small runs for the tests of crslib.judging and crslib.web."""

from pathlib import Path

import polars as pl

from crslib import schemas
from crslib.store import Run
from tests.conftest import make_profiles

SCRIPT = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


def make_runs(folder: Path, n_profiles: int, n_turns: int = 7, conditions: tuple[str, ...] = ("a", "b")) -> list[Path]:
    """Run folders of `conditions`, in each a dialogue of `n_turns` per profile. The last profile's hold markup."""
    profiles = [f"u{number:03}" for number in range(n_profiles)]
    paths = []
    for condition in conditions:
        run = Run(folder / condition)
        run.update(run_id=f"run-{condition}", parameters={"condition": condition})
        run.write("profiles", make_profiles(profiles))
        dialogues, turns = [], []
        for profile in profiles:
            head = (f"{profile}.0", f"run-{condition}", profile, condition, "user", 0, "user_left", n_turns, None, None)
            dialogues.append(head)
            for turn in range(n_turns):
                role = ("user", "recommender")[turn % 2]
                text = f"{profile} says {condition}{turn} of [[Heat (1995)]]"
                text = SCRIPT if profile == profiles[-1] and turn == 1 else text
                turns.append((f"{profile}.0", turn, role, text, [], [], 1, 0.0, "end"))
        for name, rows in (("dialogues", dialogues), ("turns", turns)):
            run.write(name, pl.DataFrame(rows, schema=dict(schemas.TABLES[name]), orient="row"))
        paths.append(run.path)
    return paths
