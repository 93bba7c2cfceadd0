"""Why the classifiers of turns hold people apart: how well people of ReDial's training part, whom a simulation can at
best be like, are told from those of its test part, with folds of dialogues and with folds of people.

`python -m tests.support.known_people REDIAL [RUN…]`; runs are folders. A person's dialogues resemble each other, and a
few dozen people wrote the test part: with folds of dialogues the classifier knows their manner.
"""

import sys
from pathlib import Path

import polars as pl

from crslib.data.corpora import frames, redial
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.identity import derive_seed
from crslib.metrics.two_sample import WORDS, reserved, two_sample

N, SEEDS = 208, 3


def main(folder: Path, runs: list[Path]) -> None:
    test, train = redial.read(folder, "test"), redial.read(folder, "train")
    said, earlier = frames(test)[1], frames(train)[1]
    for role in (USER, RECOMMENDER):
        people = {one.dialogue_id: getattr(one, role) for one in (*test, *train)}
        judged = [one.dialogue_id for one in test if not reserved(people[one.dialogue_id])]
        print(f"{role}: {len(judged)} test dialogues of {len({people[d] for d in judged})} people")
        sides = [(f"training part, draw {seed}", _drawn(earlier, seed)) for seed in range(SEEDS)]
        sides += [(str(run), pl.read_parquet(run / "turns.parquet")) for run in runs]
        for name, side in sides:
            rows = side, said.filter(pl.col("dialogue_id").is_in(judged)), role, [WORDS]
            shares = [two_sample(*rows, groups, mask="film", times=200)[WORDS] for groups in (None, people)]
            print(f"  {name}: folds of dialogues {shares[0].value:.3f}, of people {shares[1].value:.3f}")


def _drawn(turns: pl.DataFrame, seed: int) -> pl.DataFrame:
    order = sorted(turns["dialogue_id"].unique(), key=lambda one: derive_seed(seed, "people", one))
    return turns.filter(pl.col("dialogue_id").is_in(order[:N]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
