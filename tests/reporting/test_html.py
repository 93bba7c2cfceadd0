"""The reports: complete, offline, and every text shown as text."""

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest

from crslib import schemas
from crslib.config import ROOT
from crslib.data.source import Source
from crslib.experiments.comparison import DIFFERENCES
from crslib.metrics import METRICS
from crslib.reporting import charts, html
from crslib.reporting.figure import Figure
from crslib.reporting.html import Verdict, write, write_comparison
from crslib.store import Run
from tests.conftest import make_profiles
from tests.support.domains import MOVIES

SEARCH = (ROOT / "crslib/reporting/templates/search.js").read_text(encoding="utf-8")
EVIL = '<script>alert(1)</script> & "quoted" <|im_end|>'


def metric(name: str, value: float, **more: object) -> dict[str, object]:
    row = dict.fromkeys(schemas.TABLES["metrics"]) | {"metric": name, "value": value, "n": 5, "family": "", "unit": ""}
    return {**row, "direction": "none", **more}


@pytest.fixture
def run(tmp_path: Path, items: pl.DataFrame) -> Run:
    """Three dialogues; the second finds hidden item 2. Every text holds markup."""
    run = Run(tmp_path / "r")
    profiles = make_profiles(["u1", "u2", "u3"]).with_columns(summary=pl.lit(f"You enjoy {EVIL}."))
    dialogues, turns = [], []
    for number in (1, 2, 3):
        key = {"dialogue_id": f"u{number}.0"}
        dialogues.append(
            {**key, "run_id": "r", "profile_id": f"u{number}", "condition": "c", "opener": "user", "seed": 0,
             "stop_reason": "user_left", "n_turns": 2}
        )  # fmt: skip
        name = "The Matrix (1999)" if number == 2 else EVIL.replace("[", "(")
        text = f"Try [[{name}]] {EVIL}"
        item = {"item_id": "2" if number == 2 else None, "title": name, "start": 4, "end": 8 + len(name)}
        note = {"item_id": "2", "title": name, "seen": False, "liked": True}
        base = {"n_tokens": 3, "mean_logprob": -1.0, "finish": "end"}
        turns += [
            {**key, **base, "turn": 0, "role": "recommender", "text": text, "items": [item], "notes": []},
            {**key, **base, "turn": 1, "role": "user", "text": f"ok {EVIL}", "items": [], "notes": [note]},
        ]
    holdouts = [{"profile_id": f"u{n}", "item_id": "2", "rating": 5.0, "liked": True} for n in (1, 2, 3)]
    figures = [
        metric("leaked_titles", 0.0, n=30), metric("leaked_profiles", 2.0, n=40),
        metric("hits", 1 / 3, low=0.01, high=0.9, signature="crslib:9|n:5"),
        metric("turns", 12.25, low=11.0, high=13.0, human=11.7, n=3),
    ]  # fmt: skip
    for table, rows in (("dialogues", dialogues), ("turns", turns), ("holdouts", holdouts), ("metrics", figures)):
        run.write(table, pl.DataFrame(rows, schema=dict(schemas.TABLES[table])))
    run.write("profiles", profiles)
    run.write("items", items)
    run.update(opinion_auc={"value": 0.7, "low": 0.6, "high": 0.8, "n": 9})
    run.update(run_id="r", parameters={"condition": EVIL, "seed": 1}, parameters_given={"condition": EVIL})
    return run


def popular() -> Figure:
    names = pl.DataFrame({"source": ["simulated"], "rank": [1], "name": [EVIL], "share": [0.5]})
    return Figure(EVIL, EVIL, charts.popularity(names))


def test_no_text_becomes_markup_and_nothing_is_fetched(run: Run) -> None:
    html = write(run, [popular()]).read_text(encoding="utf-8")
    own = f'<script type="module">{SEARCH}</script>'
    assert html.count("<script") == html.count(own) == 1
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SEARCH.encode()).digest()).decode()}'" in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", html)
    assert not [reference for pair in references for reference in pair if re.match(r"(https?:)?//", reference)]
    assert "default-src 'none'" in html


def test_the_report_credits_the_runs_data(run: Run) -> None:
    assert "Items and ratings: not stated; licence: not stated" in write(run, []).read_text(encoding="utf-8")
    Source(name=EVIL, licence="CC0").write(run.path)
    html = write(run, []).read_text(encoding="utf-8")
    assert "MovieLens" not in html and "; licence: CC0;" in html and html.count("<script") == 1


@pytest.mark.parametrize(
    ("baseline", "sentence"),
    [
        ("", "neither knows a target"),
        ("user-target", "the user knows titles of its targets"),
        ("scripted", "One model writes both sides"),
    ],
)
def test_the_report_says_who_knows_the_targets(run: Run, baseline: str, sentence: str) -> None:
    run.update(parameters={"condition": "c", "baseline": baseline})
    html = " ".join(write(run, []).read_text(encoding="utf-8").split())
    assert sentence in html
    assert ("neither" in html) == (not baseline)


def test_metrics_are_those_of_the_table(run: Run) -> None:
    html = write(run, []).read_text(encoding="utf-8")
    assert "<b>2</b>leaks in prompts" in html
    assert "tile bad" in html
    assert "AUC on hidden ratings 0.700 [0.600, 0.800], 9 users" in html
    assert "of 70 prompts audited" in html
    assert "<b>33%</b>dialogues recommend a hidden film" in html
    assert "95 %: 11.0 to 13.0<br>human: 11.7" in html
    assert "<code>crslib:9|n:5</code>" in html
    row = re.search(r"<tr><td[^>]*>Turns per dialogue.*?</tr>", html)
    assert row
    assert re.findall(r'number">([^<]*)<', row[0]) == ["12.2", "11.0 – 13.0", "11.7", "", "3"]


def test_dialogues_are_whole_and_targets_are_marked(run: Run) -> None:
    """Each stands once in the list; one of them, drawn by the seed, also at the top with its notes unfolded."""
    html = write(run, []).read_text(encoding="utf-8")
    drawn, listed = html.split('<section id="dialogues">')
    assert drawn.count('class="bubble user"') == drawn.count('class="bubble recommender"') == 1
    assert drawn.count('<p class="note">private note: (') == 1
    assert listed.count('<section class="dialogue"') == 3
    assert listed.count('class="bubble user"') == listed.count('class="bubble recommender"') == 3
    assert listed.count("<summary>private note</summary>") == 3
    assert html.count("<summary>private note</summary>") == 3
    second = html.split('aria-label="dialogue u2.0"')[1].split("</section>")[0]
    assert '<span class="item target">The Matrix (1999)</span>' in second
    assert "[[" not in second
    first = html.split('aria-label="dialogue u1.0"')[1].split("</section>")[0]
    assert 'class="item unknown"' in first
    assert "<li>The Matrix (1999)</li>" in first


def test_same_tables_same_bytes(run: Run) -> None:
    first = write(run, [popular()]).read_bytes()
    assert write(run, [popular()]).read_bytes() == first


def test_comparison_lists_failures_with_their_traceback(tmp_path: Path) -> None:
    conditions = pl.DataFrame(
        {"condition": ["a=1", "a=2"], "a": ["1", "2"], "state": ["success", "error"], "error": [None, EVIL],
         "traceback": [None, f"Traceback {EVIL}"]}
    )  # fmt: skip
    rows = [
        (EVIL, "hits", "recommendation", 0.1, 0.05, 0.2, 0.01, 9, True),
        ("c", "turns", "realism", 3.0, 1.0, 5.0, None, 0, None),
    ]
    differences = pl.DataFrame(rows, schema=DIFFERENCES, orient="row")
    table = pl.DataFrame({"family": ["recommendation"], "metric": [EVIL], "better": [""], "a=1": ["0.1"]})
    verdict = [Verdict("yes", f"a is better than {EVIL}", "")]
    path = write_comparison(tmp_path / "c.html", conditions, table, [], differences, verdict)
    html = path.read_text(encoding="utf-8")
    assert "is better than &lt;script&gt;" in html
    assert "<td>hits</td><td>0.100</td>" in html
    assert "<td>turns</td>" not in html  # of no known direction
    assert "2 conditions side by side" in html
    assert "Traceback &lt;script&gt;" in html
    assert "<script" not in html


def test_the_report_says_what_intervals_are_worth_where_a_person_has_several_dialogues(run: Run) -> None:
    assert html.remarks(run) == []
    run.write("dialogues", run.read("dialogues").with_columns(profile_id=pl.lit("u1")))
    assert "intervals take the dialogues of a person for independent" in write(run, []).read_text(encoding="utf-8")


def test_the_report_of_a_file_says_whose_dialogues_they_are_and_what_is_left_out(run: Run) -> None:
    """Metrics that were measured all the same (`hits`) are not left out; a chart that needs prompts is."""
    source = {"name": EVIL, "form": "trl", "sha256": "ab12", "lines": ["3 dialogues, 6 turns"]}
    run.update(source=source, lacking=["prompts", "holdouts", "models"])
    lines = html.remarks(run)
    assert lines[0] == "3 dialogues, 6 turns"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "left out, because the dialogues have no hidden items",
        "left out, because the dialogues have no models",
    ]
    assert METRICS["recall_at_5"].title in lines[1]
    assert METRICS["hits"].title not in lines[1]
    chart = replace(popular(), title="Of prompts", needs="prompts")
    page = write(run, [popular(), chart]).read_text(encoding="utf-8")
    assert "left out, because the dialogues have no hidden items" in page
    assert "Dialogues from the file &lt;script&gt;" in page
    assert "Two independent models" not in page
    assert "written by two language models" not in page
    assert "Of prompts" not in page


def test_of_many_dialogues_one_that_is_printed_is_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html.transcripts, "spread", lambda dialogues: dialogues.head(1))
    for seed in range(5):
        run.update(parameters={"condition": "c", "seed": seed})
        page = write(run, []).read_text(encoding="utf-8")
        assert f'with seed {seed}, not chosen: <a href="#u1.0">u1.0</a> of 3, from the 1 below.' in page
        assert page.count(' id="u1.0"') == 1


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({}, "Texts were written by two language models. Items"),
        ({"agents": {"user": {"agent": "agenda"}}}, "Texts were written by the parties named above. Items"),
        ({"parameters": {"condition": "c", "baseline": "scripted"}}, "Texts were written by one language model. Items"),
    ],
)
def test_the_foot_says_who_wrote(run: Run, info: dict, sentence: str) -> None:
    run.update(**info)
    assert sentence in write(run, []).read_text(encoding="utf-8")


def test_a_report_has_the_words_of_its_domain(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"label": "story", "labels": "stories", "article": "an"}
    monkeypatch.setattr(html, "of_run", lambda run: MOVIES.model_copy(update=words))
    page = write(run, []).read_text(encoding="utf-8")
    assert "<p>Stories the user liked later:</p>" in page
    assert "recommended an story that the user" in page


def test_a_report_without_prompts_claims_no_audit(run: Run) -> None:
    metrics = run.read("metrics")
    run.write("metrics", metrics.filter(~pl.col("metric").str.starts_with("leaked")))
    page = write(run, []).read_text(encoding="utf-8")
    assert "no prompts" in page
    assert "0 prompts audited" not in page


def test_links_lead_to_dialogues_and_turns_that_are_there_once(run: Run) -> None:
    """Also those of an id that is no name of an anchor, such as an imported one."""
    odd = 'a b/ü"><b>'
    for table in ("dialogues", "turns"):
        frame = run.read(table)
        run.write(table, frame.with_columns(pl.col("dialogue_id").replace("u3.0", odd)))
    page = write(run, []).read_text(encoding="utf-8")
    ids = [unescape(name) for name in re.findall(r' id="([^"]*)"', page)]
    links = {unquote(link) for link in re.findall(r'href="#([^"]*)"', page)}
    assert len(ids) == len(set(ids))
    assert links <= set(ids)
    assert {"u1.0", "u1.0:0", "u1.0:1", odd, f"{odd}:1"} <= set(ids)
    assert {"u1.0:0", "u1.0:1", f"{odd}:1", "dialogues", "metrics"} <= links


def test_the_claim_is_one_sentence_with_its_numbers(run: Run) -> None:
    claim = re.search(r'<p class="claim">(.*?)</p>', write(run, []).read_text(encoding="utf-8"))[1]
    assert claim == (
        "Two models that know no target held 3 dialogues: 2 of 70 prompts leaked, 33% [1%, 90%] of the dialogues "
        "recommended a film that the user liked later, and 0 of 1 metrics are like people’s, 0 unlike, 1 undecided."
    )


def test_charts_side_by_side_stand_alone_with_their_titles(run: Run) -> None:
    names = pl.DataFrame({"condition": ["a"], "value": [0.5], "low": [0.4], "high": [0.6], "human": [None]})
    one = charts.conditions(names.with_columns(pl.col("human").cast(pl.Float64))).properties(title=EVIL)
    parts = html._drawn([Figure("Realism", "", charts.grid([one, one.properties(title="second")]))])[0]["parts"]
    assert [part["title"] for part in parts] == [EVIL, "second"]
    assert all("alert" not in part["svg"] and part["svg"].count(">a</text>") == 1 for part in parts)
    (alone,) = html._drawn([Figure("Realism", "", charts.grid([one]))])[0]["parts"]
    assert alone["svg"] == parts[0]["svg"]  # also where Altair has moved the data


def test_charts_have_the_colours_of_the_page(run: Run) -> None:
    page = write(run, [popular()]).read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert drawn.count("<svg") == 3  # the metrics against people's for wide and narrow pages, and the chart
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawn)) <= {
        *("none", "transparent", "var(--accent)", "var(--people)", "var(--ink)", "var(--soft)", "var(--line)"),
        "var(--card)",
    }


def test_the_verdicts_of_a_comparison_come_first_and_in_words(tmp_path: Path) -> None:
    conditions = pl.DataFrame(
        {"condition": ["a", "b"], "state": ["success"] * 2, "error": [None] * 2, "traceback": [None] * 2},
        schema=dict.fromkeys(("condition", "state", "error", "traceback"), pl.String),
    )
    table = pl.DataFrame({"family": ["realism"], "metric": ["Turns"], "better": [""], "a": ["3"], "b": ["4"]})
    verdict = [
        Verdict("yes", "a; yes: no is more diverse than b", "Distinct-2, user +0.100 [+0.050, +0.200]"),
        Verdict("open", "a leaks less than b", "n too small (below 30); User names a target first +0.000"),
    ]
    none = pl.DataFrame(schema=DIFFERENCES)
    page = write_comparison(tmp_path / "c.html", conditions, table, [], none, verdict).read_text(encoding="utf-8")
    assert '<p class="claim">2 claims about a against b: 1 yes, 1 open.</p>' in page
    found = re.findall(r'<dt class="(\w+)">\1</dt><dd><details><summary>(.*?)</summary><small>(.*?)</small>', page)
    assert found == [
        ("yes", "a; yes: no is more diverse than b", "Distinct-2, user +0.100 [+0.050, +0.200]"),
        ("open", "a leaks less than b", "n too small (below 30); User names a target first +0.000"),
    ]
    assert page.index('id="verdict"') < page.index('id="metrics"') < page.index('id="conditions"')


def test_correlations_with_satisfaction_are_in_the_report(run: Run) -> None:
    assert html.satisfied(run).frame.is_empty()
    row = ("turns", -0.4, -0.6, -0.1, 40)
    run.write("correlations", pl.DataFrame([row], schema=dict(schemas.TABLES["correlations"]), orient="row"))
    assert html.satisfied(run).frame.rows() == [("Turns per dialogue", "-0.40 [-0.60, -0.10]", 40)]
    assert "-0.40 [-0.60, -0.10]" in write(run, []).read_text(encoding="utf-8")


def test_what_servers_counted_and_what_failed_is_said() -> None:
    server = {"agent": "server", "model": "m", "url": "http://localhost:1/v1", "reproducible": False}
    usage = {"user": {"tokens_in": 1500, "tokens_out": 40, "price": 0.25}, "recommender": {}}
    rows = dict(html._facts({"agents": {"user": server}, "usage": usage, "n_failed": 2}))
    assert rows["the user"] == "server, m, http://localhost:1/v1"
    assert rows["the user's server"] == "1,500 tokens in, 40 out, price 0.2500"
    assert "the recommender's server" not in rows
    assert rows["dialogues that failed"] == "2, see failures.parquet"
