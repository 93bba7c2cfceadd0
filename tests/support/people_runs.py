"""Two runs of a few people, small enough to write down: what is compared in the tests of crslib.people."""

from pathlib import Path

import polars as pl

from crslib import schemas
from crslib.store import Run
from tests.conftest import make_profiles

SCRIPT = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


def make_runs(folder: Path, n_people: int, n_turns: int = 7, conditions: tuple[str, ...] = ("a", "b")) -> list[Path]:
    """Run folders of `conditions`: each person has a dialogue of `n_turns` in each; the last one's holds markup."""
    people = [f"u{number:03}" for number in range(n_people)]
    paths = []
    for condition in conditions:
        run = Run(folder / condition)
        run.update(run_id=f"run-{condition}", parameters={"condition": condition})
        run.write("profiles", make_profiles(people))
        dialogues, turns = [], []
        for person in people:
            dialogues.append((f"{person}.0", f"run-{condition}", person, condition, "user", 0, "user_left", n_turns))
            for turn in range(n_turns):
                role = ("user", "recommender")[turn % 2]
                text = f"{person} says {condition}{turn} of [[Heat (1995)]]"
                text = SCRIPT if person == people[-1] and turn == 1 else text
                turns.append((f"{person}.0", turn, role, text, [], [], 1, 0.0, "end"))
        for name, rows in (("dialogues", dialogues), ("turns", turns)):
            run.write(name, pl.DataFrame(rows, schema=dict(schemas.TABLES[name]), orient="row"))
        paths.append(run.path)
    return paths
