"""What `03_evaluate` calls, on a run of functions: the same metrics as elsewhere, and a section for each family."""

from html import escape

import pytest

import crslib
from crslib.config import EvaluationParameters
from crslib.experiments import families, own
from crslib.experiments.families import Measured, Tables
from crslib.metrics import METRICS
from crslib.store import Run

SECTIONS = {
    "leakage": families.leaks,
    "recommendation": families.recommended,
    "realism": families.realistic,
    "diversity": families.diverse,
    "consistency": families.consistent,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, Measured]:
    folder = tmp_path_factory.mktemp("run")
    users = {"user": lambda turns, knowledge: f"I like {knowledge['attributes']}", "n_profiles": 3, "max_turns": 4}
    crslib.talk(lambda turns: "Try The Matrix (1999)", to=folder, condition="x", **users)
    tables = families.read(Run(folder), EvaluationParameters(n_bootstrap=100))
    return tables, families.measure(tables)


def test_the_metrics_are_those_of_other_evaluations(measured: tuple[Tables, Measured]) -> None:
    tables, all_metrics = measured
    all_metrics.write(tables)
    evaluation = all_metrics.evaluation
    assert tables.run.read("metrics").equals(evaluation.metrics)
    assert tables.run.read("scores").equals(evaluation.scores)
    assert tables.run.info["audit"] == tables.audit.counts
    again = own.evaluate(tables.run, n_bootstrap=100, seed=0)
    assert again.metrics.equals(evaluation.metrics) and again.resamples.equals(evaluation.resamples)


def test_what_needs_human_texts_says_so(measured: tuple[Tables, Measured]) -> None:
    tables, all_metrics = measured
    remarks = families.overview(all_metrics).remarks
    assert "Left out: a classifier of turns; no human dialogues to compare with; set `redial`." in remarks
    assert sum("set `redial`" in remark for remark in remarks) == 3
    satisfied = families.satisfied(tables, all_metrics)
    assert satisfied.table.is_empty()
    assert satisfied.remarks[0].startswith("Not measured: no labels of people's satisfaction")


@pytest.mark.parametrize("family", SECTIONS)
def test_a_section_has_figures_and_all_rows_of_its_family(measured: tuple[Tables, Measured], family: str) -> None:
    tables, all_metrics = measured
    section = SECTIONS[family](tables, all_metrics)
    names = all_metrics.evaluation.metrics.filter(family=family)["metric"]
    assert section.table["metric"].to_list() == [METRICS[name].title for name in names]
    html = section._repr_html_()
    assert html.count("<svg") == len(section.figures) > 0
    assert html.startswith(f"<h3>{escape(section.title)}</h3>")


def test_a_figure_that_the_run_lacks_is_left_out_and_named(measured: tuple[Tables, Measured]) -> None:
    tables, all_metrics = measured
    tables.run.update(lacking=["prompts", "profiles"])
    section = families.leaks(tables, all_metrics)
    assert section.figures == []
    assert section.remarks == [
        "Leakage: left out, because there are no prompts.",
        "Anonymity: left out, because there are no profiles.",
    ]
    tables.run.update(lacking=[])


def test_a_control_reads_the_dialogues_as_those_of_others(measured: tuple[Tables, Measured]) -> None:
    tables, _ = measured
    control = families.read(tables.run, EvaluationParameters(n_bootstrap=100, judged_by="another"))
    own_profiles, others = (frame.dialogues["profile_id"].to_list() for frame in (tables, control))
    assert sorted(others) == sorted(own_profiles)
    assert all(one != other for one, other in zip(own_profiles, others, strict=True))
    assert control.prompts.is_empty()
    assert control.audit.counts == tables.audit.counts  # of the dialogues' own people


def test_the_report_has_the_figures_of_the_sections(measured: tuple[Tables, Measured]) -> None:
    tables, all_metrics = measured
    all_metrics.write(tables)
    sections = [section(tables, all_metrics) for section in SECTIONS.values()]
    html = families.report(tables, sections).read_text(encoding="utf-8")
    for title in ("Leakage", "Success by turn", "Turn lengths", "Concentration", "Reactions"):
        assert title in html
