"""What `03_evaluate` calls: the tables of a run, all its metrics, and what a person looks at of each family of metrics.

The functions take tables and return tables and sections of them; only `Measured.write` writes into the run's folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from crslib import metrics
from crslib.config import EvaluationParameters, SimulationParameters, resolve
from crslib.data.corpora import Dialogue, frames
from crslib.data.corpora import redial as corpus
from crslib.data.source import Source
from crslib.dialogue.domain import Domain, of_run
from crslib.experiments.benchmarks import adapters
from crslib.metrics import (
    METRICS,
    Evaluation,
    Facts,
    Metric,
    Results,
    acts,
    consistency,
    control,
    embedding,
    leakage,
    ngram,
    own,
    realism,
    recommendation,
    reference,
    satisfaction,
    two_sample,
)
from crslib.reporting import charts, dot_plot, html, summary, text
from crslib.reporting.figure import Figure
from crslib.reporting.notebook import Section
from crslib.simulation import Population
from crslib.store import Run

_TABLES = ("profiles", "holdouts", "items", "ratings")


@dataclass(frozen=True)
class Tables:
    """What is evaluated: a run's tables; `dialogues`, `turns` and `prompts` as another person's where `judged_by` says
    so; `facts` of them; `audit` of the prompts, always those of the dialogues' own persons; `human`, what they are
    compared with."""

    run: Run
    parameters: EvaluationParameters
    domain: Domain
    human: reference.Human
    profiles: pl.DataFrame
    holdouts: pl.DataFrame
    items: pl.DataFrame
    ratings: pl.DataFrame
    dialogues: pl.DataFrame
    turns: pl.DataFrame
    prompts: pl.DataFrame
    facts: Facts
    audit: leakage.Audit

    @property
    def resampling(self) -> dict[str, int]:
        """How intervals are made."""
        return {"times": self.parameters.n_bootstrap, "seed": self.parameters.seed}


@dataclass(frozen=True)
class Measured:
    """All metrics of a run, their `correlations` with people's satisfaction, and of each part that was left out why
    (`missing`)."""

    evaluation: Evaluation
    correlations: pl.DataFrame
    missing: Mapping[str, str]

    @property
    def defined(self) -> Mapping[str, Metric]:
        """The definitions of all metrics, those of one's own last."""
        return {**METRICS, **self.evaluation.own}

    def write(self, tables: Tables) -> None:
        """Writes the tables into the run's folder, and audit and metrics into its `run.json`."""
        tables.run.update(audit=tables.audit.counts)
        tables.run.write("correlations", self.correlations)
        self.evaluation.write(tables.run)


def read(run: Run, parameters: EvaluationParameters) -> Tables:
    """The tables of a run, audited. Raises `CrsError` when one is missing."""
    known = {name: run.read(name) for name in _TABLES}
    dialogues, turns, prompts = (run.read(name) for name in ("dialogues", "turns", "prompts"))
    domain = of_run(run)
    audit = leakage.audit(prompts, known["profiles"], known["holdouts"], known["items"], dialogues, turns, domain)
    if parameters.judged_by == "another":
        more = run.info.get("parameters", {}).get("opinions") == "people"
        people = Population(known["profiles"], known["items"], known["ratings"], domain, source=Source.read(run.path))
        opinions = people.opinions_for(SimulationParameters(opinions="people" if more else "ratings"))
        dialogues, turns = control.exchange(dialogues, turns, known["profiles"], opinions, parameters.seed)
        prompts = prompts.clear()
    facts = metrics.facts(dialogues, turns, domain)
    human = reference.read(resolve(parameters.human))
    return Tables(
        run,
        parameters,
        domain,
        human,
        **known,
        dialogues=dialogues,
        turns=turns,
        prompts=prompts,
        facts=facts,
        audit=audit,
    )


def measure(tables: Tables) -> Measured:
    """All metrics. Those that need texts of human dialogues are left out without `redial`, and so is satisfaction
    without labels.

    The embeddings take some ten seconds for 64 dialogues on two cores, the models' reading of human dialogues a minute.
    """
    parameters, turns, human = tables.parameters, tables.turns, tables.human
    evaluation = metrics.evaluate(
        tables.run.run_id, tables.profiles, tables.holdouts, tables.items, tables.ratings, tables.dialogues, turns,
        tables.prompts, human, tables.domain, n_bootstrap=parameters.n_bootstrap, seed=parameters.seed,
        metrics=own.load(parameters.metrics), audit=tables.audit if parameters.judged_by == "own" else None,
    )  # fmt: skip
    folder, mask, how = resolve(parameters.human), human.domain.mask, tables.resampling
    test, train = _human_dialogues(parameters, "test"), _human_dialogues(parameters, "train")
    settings = tables.run.info.get("parameters", {})
    parts: dict[str, Callable[[], Results]] = {
        "embeddings of turns": lambda: embedding.evaluate(turns, folder, mask, **how),
        "a classifier of turns": lambda: two_sample.evaluate(turns, test, mask, **how),
        "words under a model of human words": lambda: ngram.evaluate(turns, frames(test)[1], frames(train)[1], **how),
        "human words under the run's models": lambda: adapters.foresight(test, settings, **how),
        "people's satisfaction": lambda: satisfaction.evaluate(satisfaction.read(tables.run), **how),
    }
    missing = {}
    for what, part in parts.items():
        results = part()
        evaluation = metrics.extended(evaluation, results, **how)
        if results.missing:
            missing[what] = results.missing
    return Measured(evaluation, satisfaction.correlations(evaluation.scores, **how), missing)


def _human_dialogues(parameters: EvaluationParameters, part: Literal["train", "test"]) -> list[Dialogue]:
    return corpus.read(resolve(parameters.redial), part) if parameters.redial else []


# ── what is looked at ───────────────────────────────────────────────────────────────────────────────────────────


def overview(measured: Measured) -> Section:
    """All metrics that people's dialogues have too, beside people's, what was left out, and metrics of one's own."""
    reading = (
        "A value right of the middle is larger than people's, one to the left smaller; a line is the 95 % interval "
        "over dialogues, a bar ends at the floor, the distance between two samples of people's dialogues."
    )
    figure = Figure(
        "Beside people", reading, dot_plot.against_people(measured.evaluation.metrics, defined=measured.defined)
    )
    remarks = [f"Left out: {what}; {why}." for what, why in measured.missing.items()]
    mine = summary.metrics(measured.evaluation.metrics.filter(family="own"), measured.defined)
    return Section(f"{measured.evaluation.metrics.height} metrics", figures=[figure], table=mine, remarks=remarks)


def leaks(tables: Tables, measured: Measured) -> Section:
    """The audit, and how many items fit the attributes of a profile."""
    min_k = tables.run.info.get("parameters", {}).get("min_k", 20)
    found = tables.audit.findings.head(20)
    examples = [
        f"{row['dialogue_id']}, turn {row['turn']}: {row['kind']}: {row['evidence']}" for row in found.to_dicts()
    ]
    figures = [
        Figure(
            "Leakage", "Prompts with a finding, of all prompts read.", charts.leakage(tables.audit.table()), "prompts"
        ),
        Figure(
            "Anonymity",
            "How many items match a profile's target attributes; the dashed line is the minimum allowed.",
            charts.anonymity(tables.profiles, min_k),
            "profiles",
        ),
    ]
    reading = "Every prompt that was fed to a model is read; all counts of findings must be 0."
    return _section(tables, measured, "leakage", "Does anything leak?", reading, figures, examples)


def recommended(tables: Tables, measured: Measured) -> Section:
    """Whether the recommender finds what the user liked later."""
    curve = recommendation.hit_by_turn(tables.facts, tables.dialogues, tables.holdouts, **tables.resampling)
    figures = [
        Figure(
            "Success by turn",
            "Share of dialogues in which a hidden liked item has been recommended; 95 % band.",
            charts.success_by_turn(curve),
            "holdouts",
        )
    ]
    reading = "The recommender knows only the dialogue. Items that the user had named before do not count."
    return _section(tables, measured, "recommendation", "Are hidden items recommended?", reading, figures)


def realistic(tables: Tables, measured: Measured) -> Section:
    """How long turns are and what is done in them, beside people's."""
    words = pl.concat(
        realism.histogram(tables.facts, tables.human.facts, f"{role}_words").with_columns(role=pl.lit(role))
        for role in ("user", "recommender")
    )
    tagger = tables.human.tagger
    shares = acts.shares(tagger.tag(tables.turns), tables.human.acts, **tables.resampling)
    figures = [
        Figure(
            "Turn lengths",
            "Words per turn, simulated and human, in steps of two words.",
            charts.lengths(words),
        ),
        Figure(
            "Dialogue acts",
            "Share of turns with each act by a tagger, with the tagger's F1; 95 % intervals.",
            charts.acts(shares, tagger.accuracy, tables.domain),
        ),
    ]
    reading = "No simulation can be expected below the floor, the distance between two samples of human dialogues."
    return _section(tables, measured, "realism", "Are the dialogues like people's?", reading, figures)


def diverse(tables: Tables, measured: Measured) -> Section:
    """Which items are recommended, and how many of them."""
    ranked = recommendation.popularity(tables.facts, tables.human.facts, tables.items)
    figures = [
        Figure(
            "Most recommended",
            "Items by the share of dialogues in which they were recommended.",
            charts.popularity(ranked),
        ),
        Figure(
            "Concentration",
            "The same by rank: a steep curve means that few items are recommended to all.",
            charts.concentration(ranked),
        ),
    ]
    return _section(tables, measured, "diversity", "How varied are words and items?", "", figures)


def consistent(tables: Tables, measured: Measured) -> Section:
    """Whether users act on what they know."""
    said = consistency.coverage_by_turn(
        tables.turns, tables.dialogues, tables.profiles, tables.domain, **tables.resampling
    )
    answers = consistency.reaction_table(tables.facts, tables.human.facts)
    figures = [
        Figure(
            "Reactions",
            "What users say about a recommended item, by their private note.",
            charts.reactions(answers, tables.domain),
            "notes",
        ),
        Figure(
            "Attributes said",
            "Share of the target attributes that the user has said; 95 % band.",
            charts.coverage_by_turn(said),
            "profiles",
        ),
    ]
    reading = "Notes state whether an item was met and liked; answers are read by phrase patterns, also people's."
    return _section(tables, measured, "consistency", "Do users say what they know and want?", reading, figures)


def satisfied(tables: Tables, measured: Measured) -> Section:
    """Whether people are satisfied where metrics are high, the strongest correlation first."""
    title = "Are people satisfied where metrics are high?"
    if why := measured.missing.get("people's satisfaction"):
        return Section(title, remarks=[f"Not measured: {why}."])
    rows = [
        (measured.defined[row["metric"]].title, text.row_estimate(row), row["n"])
        for row in measured.correlations.iter_rows(named=True)
    ]
    heads = {"metric": pl.String, "rank correlation [95 % interval]": pl.String, "dialogues": pl.Int64}
    verdict = satisfaction.verdict(measured.evaluation.scores, measured.correlations)
    return Section(title, remarks=[verdict], table=pl.DataFrame(rows, schema=heads, orient="row"))


def report(tables: Tables, sections: Sequence[Section]) -> Path:
    """Writes the run's report with the figures of the sections; returns its path."""
    return html.write(tables.run, [figure for section in sections for figure in section.figures])


def _section(
    tables: Tables,
    measured: Measured,
    family: str,
    title: str,
    reading: str,
    figures: Sequence[Figure],
    remarks: Sequence[str] = (),
) -> Section:
    """Figures of a family of metrics, and the family's rows of the metrics. What the run lacks is said."""
    lacking = tables.run.info.get("lacking", ())
    left_out = [
        f"{figure.title}: left out, because there are no {figure.needs}."
        for figure in figures
        if figure.needs in lacking
    ]
    rows = measured.evaluation.metrics.filter(family=family)
    drawn = [figure for figure in figures if figure.needs not in lacking]
    return Section(title, reading, drawn, summary.metrics(rows), [*remarks, *left_out])
