"""The first hour of a newcomer, step by step: how long each takes and the last line that is seen.

`python -m tests.support.newcomer FOLDER` clones this checkout into FOLDER and gives nothing but commands that README
and `crs --help` name; the step that trains needs the dialogues of ReDial (`CRS_DATA`). It prints a table
*step | seconds | what is seen* and stops at a step that fails.
"""

import csv
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
SMALL = ("-p", "n_profiles=8", "-p", "max_turns=6")
REPLY = '''def reply(turns):
    """Asks once, then names the same film."""
    return "What do you like?" if len(turns) < 2 else "Try [[Heat (1995)]]."
'''


def csv_of_books(to: Path) -> None:
    """Two files of a newcomer's own: 60 readers of 40 books each out of 200, under its own column names."""
    draw = random.Random(1)
    rated = [(f"u{u}", f"b{b}", draw.randint(1, 5)) for u in range(60) for b in draw.sample(range(200), 40)]
    books = [(f"b{b}", f"Story number {b}", 1950 + b % 70, ("crime", "drama")[b % 2]) for b in range(200)]
    tables: dict[str, tuple[tuple[str, ...], Iterable[Sequence[object]]]] = {
        "r.csv": (("userId", "book", "stars"), rated),
        "i.csv": (("book", "title", "year", "genres"), books),
    }
    for name, (head, rows) in tables.items():
        with (to / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *rows])


def steps(clone: Path) -> Iterable[tuple[str, Sequence[str | Path]]]:
    """What a newcomer does in `clone`, in order: the step's name and its command."""
    crs = clone / ".venv/bin/crs"
    yield "clone", ("git", "clone", "--quiet", HERE, clone)
    yield "`make run`, with the install: 64 people", ("make", "run")
    yield "see the report: `crs look latest`", (crs, "look", "latest", "--to", "look.html")
    yield "a run of 8 people", (crs, "run", *SMALL)
    yield "change a parameter: `-p temperature=0.7`", (crs, "run", *SMALL, "-p", "temperature=0.7")
    yield "tell the runs apart: `crs runs`", (crs, "runs")
    grid = clone / "grid.yaml"
    grid.write_text("temperature: [1.0, 0.7]\n", encoding="utf-8")
    yield "compare two: `crs sweep`", (crs, "sweep", grid, *SMALL)
    csv_of_books(clone)
    columns = [word for pair in ("user_id=userId", "item_id=book", "rating=stars") for word in ("--column", pair)]
    files = ("--ratings", "r.csv", "--items", "i.csv")
    yield (
        "bring a CSV: `crs data import`",
        (crs, "data", "import", *files, *columns, "--domain", "books", "--to", "mine"),
    )
    yield "a run on it", (crs, "run", "-p", "data=mine", *SMALL)
    gguf = subprocess.run(
        [clone / ".venv/bin/python", "-c", "from crslib.engines import llama; print(llama.model_path('smollm2'))"],
        **{"capture_output": True, "text": True, "check": True, "cwd": clone},
    ).stdout.strip()
    yield "bring a GGUF: `-p user_model=FILE.gguf`", (crs, "run", "-p", f"user_model={gguf}", *SMALL)
    (clone / "my_crs.py").write_text(REPLY, encoding="utf-8")
    yield "bring a CRS: `python:my_crs:reply`", (crs, "run", "-p", "recommender_model=python:my_crs:reply", *SMALL)
    yield "export: `crs export --as trl`", (crs, "export", "latest", "--as", "trl", "--to", "out")
    yield "install torch: `make train`", ("make", "train")
    redial = Path(os.environ.get("CRS_DATA", HERE.parent / "shared/data")) / "redial"
    few = ("--limit", "8", "--epochs", "1", "--validation", "0")
    yield "train a little: `crs train user`", (crs, "train", "user", "--redial", redial, *few, "--to", "adapter")


def main(folder: Path) -> int:
    clone = folder / "clone"
    print("| step | seconds | what is seen |\n|---|---|---|")
    for name, words in steps(clone):
        start = time.perf_counter()
        done = subprocess.run(
            [str(word) for word in words],
            **{"cwd": clone if clone.exists() else folder, "text": True},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "check": False},
        )
        seconds = time.perf_counter() - start
        (folder / "seen.txt").open("a", encoding="utf-8").write(f"\n--- {name}\n{done.stdout}")
        seen = [line.strip() for line in done.stdout.replace(str(clone), ".").splitlines() if line.strip()]
        print(f"| {name} | {seconds:.1f} | {' '.join(seen[-1:])} |", flush=True)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
