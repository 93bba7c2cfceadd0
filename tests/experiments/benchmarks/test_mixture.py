"""The fit of the mixture: on data drawn from a known one, and on dialogues that nobody has been fitted on."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from crslib.experiments.benchmarks import mixture
from crslib.experiments.benchmarks.mixture import Moment
from crslib.recommender.mixture import Mixture

TRUE = Mixture(0.6, 0.9, 0.3)


def moments(n: int, excluded: bool = True) -> list[Moment]:
    """Targets drawn from `TRUE` over 30 items; the first is excluded."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 3, 30)
    drawn = []
    for number in range(n):
        model, prior = base + rng.normal(0, 2, 30), rng.normal(0, 2, 30)
        prior[0] = -np.inf if excluded else prior[0]
        scores = TRUE.scores(model, prior, base)
        target = rng.choice(30, p=np.exp(scores - logsumexp(scores)))
        drawn.append(Moment(f"d{number // 2}", model, prior, base, (int(target),)))
    return drawn


def test_the_exponents_of_the_data_are_recovered() -> None:
    assert mixture.fit(moments(3000)) == pytest.approx(TRUE, abs=0.06)


def test_losses_by_hand() -> None:
    moment = Moment("d", np.log([0.5, 0.25, 0.25]), np.array([0.0, np.log(3), -np.inf]), np.log([0.5, 0.5, 1]), (0, 1))
    # weights 0.5 · 1 / 0.5 and 0.25 · 3 / 0.5; the third is no candidate
    assert mixture.losses([moment], Mixture(1.0, 1.0, 1.0)) == pytest.approx([-np.log(1 / 2.5), -np.log(1.5 / 2.5)])


def test_no_given_mixture_beats_the_fitted_one_on_its_own_data() -> None:
    rows = mixture.compare(moments(300))
    nats = {name: loss for name, *_, loss, _ in rows}
    assert set(nats) == {*mixture.GIVEN, "fitted", "held out"}
    assert nats["fitted"] <= min(nats.values()) + 1e-4
    assert nats["fitted"] < nats["held out"]
    assert {n for *_, n in rows} == {300}


def test_only_training_dialogues_that_nobody_was_fitted_on_are_read(tmp_path: Path) -> None:
    def entry(position: int, role: str, text: str) -> dict[str, object]:
        return {"utterance_pos": position, "role": role, "utterance_text": text, "sub-intent/action": ["OTH"]}

    texts = {"0": entry(1, "seeker", "Hi"), "1": entry(2, "recommender", "@1 <Heat (1995)> or @2 <Some Film (1990)>")}
    file = tmp_path / "umap2020_IARD_Cai.json"
    file.write_text(json.dumps({number: {"dialogue_info": texts} for number in ("7", "8", "20000")}))
    (one,) = mixture.unread(tmp_path, {"7"}, {"1": "Heat (1995)"})
    assert one.dialogue_id == "8"
    assert [[mention.item_id for mention in turn.mentions] for turn in one.turns] == [[], ["1", ""]]
