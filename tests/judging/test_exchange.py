"""Exported pairs are blind; imported votes get the right sides and count once."""

import json
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml

from crslib.errors import CrsError
from crslib.judging import analysis, exchange
from crslib.judging.study import Study, open_study
from tests.support.people_runs import make_runs


@pytest.fixture
def study(tmp_path: Path) -> Study:
    opened = open_study(make_runs(tmp_path, 6), 3, 0, tmp_path / "people")
    state = opened.state("ann")
    opened.vote("ann", "k", 0, state["criterion"], "left", 2.5)
    return opened


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_tables_are_exported_and_imported_once(study: Study, form: str, tmp_path: Path) -> None:
    pairs, votes = exchange.write(study, form, tmp_path / "out")
    assert "run-a" not in pairs.read_text()
    assert exchange.read(study, form, votes).equals(study.votes())
    assert study.add(exchange.read(study, form, votes)) == 0  # our own
    foreign = study.votes().with_columns(rater=pl.lit("eve"))
    assert (study.add(foreign), study.add(foreign)) == (1, 0)
    assert study.votes()["rater"].to_list() == ["ann", "eve"]
    assert study.state("ann")["step"] == 1


def test_votes_of_a_wrong_shape_are_one_sentence(study: Study, tmp_path: Path) -> None:
    pair = study.pairs["pair_id"][0]
    file = tmp_path / "export.json"

    def refused(content: object) -> str:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(CrsError) as caught:
            exchange.read(study, "labelstudio", file)
        return str(caught.value)

    def task(pair_id: object, criterion: object, *choices: object) -> list[object]:
        result = {"type": "choices", "from_name": criterion, "value": {"choices": choices}}
        return [{"data": {"pair_id": pair_id}, "annotations": [{"completed_by": 1, "result": [result]}]}]

    assert "vote 1: criterion = ['flow'] is not valid" in refused(task(pair, ["flow"], "left"))
    assert "vote 1: choice = ['left'] is not valid" in refused(task(pair, "flow", ["left"]))
    assert "vote 1: pair_id = ['p'] is not valid" in refused(task(["p"], "flow", "left"))
    assert "flow has more than one choice" in refused(task(pair, "flow", "left", "tie"))
    assert "holds no votes" in refused(task(pair, "flow"))  # nothing was chosen
    assert "cannot read votes in the format labelstudio" in refused("[" * 5000)
    (tmp_path / "out/zoe").mkdir(parents=True)
    (tmp_path / "out/zoe/user_state.json").write_text(
        json.dumps({"instance_id_to_label_to_value": {pair: {"flow": {}}}})
    )
    with pytest.raises(CrsError, match="holds no votes in the format potato"):
        exchange.read(study, "potato", tmp_path / "out")
    for value in ("inf", "nan", "-1"):
        (tmp_path / "v.csv").write_text(f"pair_id,criterion,choice,rater,seconds\n{pair},flow,left,zoe,{value}\n")
        with pytest.raises(CrsError, match="vote 1: seconds = "):
            exchange.read(study, "csv", tmp_path / "v.csv")
    (tmp_path / "v.csv").write_text(f"pair_id,criterion,choice,rater\n{pair},flow,left,\n")
    with pytest.raises(CrsError, match="vote 1: rater = None is not valid"):
        exchange.read(study, "csv", tmp_path / "v.csv")


def test_no_cell_of_a_csv_is_a_formula(study: Study, tmp_path: Path) -> None:
    """The remedy of OWASP's page on CSV injection."""
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "''=1", "a=1", "", "'a", "\r-"]
    exported = exchange.as_cells(pl.DataFrame({"text": formulas}))
    assert exported["text"].to_list() == [
        "'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "''=1", "'''=1", "a=1", "", "'a", "'\r-",
    ]  # fmt: skip
    assert exchange.from_cells(exported)["text"].to_list() == formulas
    study.add(study.votes().with_columns(rater=pl.lit("=HYPERLINK(1)")))
    _, votes = exchange.write(study, "csv", tmp_path)
    assert pl.read_csv(votes)["rater"].sort().to_list() == ["'=HYPERLINK(1)", "ann"]
    assert exchange.read(study, "csv", votes).equals(study.votes())


def test_a_table_without_sides_gets_those_of_the_study(study: Study, tmp_path: Path) -> None:
    row = study.pairs.row(0, named=True)
    (tmp_path / "[v].csv").write_text(f"pair_id,criterion,choice,rater\n{row['pair_id']},flow,right,eve\n")
    (vote,) = exchange.read(study, "csv", tmp_path / "[v].csv").to_dicts()  # no pattern
    assert (vote["left_condition"], vote["right_run"]) == (row["left_condition"], row["right_run"])
    assert (vote["choice"], vote["order"], vote["seconds"]) == ("right", None, None)


def test_potato_is_configured_blind_and_read_in_both_of_its_forms(study: Study, tmp_path: Path) -> None:
    config, data = exchange.write(study, "potato", tmp_path / "out")
    schemes = yaml.safe_load(config.read_text())["annotation_schemes"]
    assert [scheme["name"] for scheme in schemes][:2] == ["naturalness", "flow"]
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    assert {row["id"] for row in rows} == set(study.pairs["pair_id"])
    for secret in ("run-a", "shuffled", "repeating", "<script>"):
        assert secret not in data.read_text()
    pair = rows[0]["id"]
    for user in ("ann", "bob"):
        (tmp_path / "annotation_output" / user).mkdir(parents=True)
    logged = [[{"schema": "flow", "name": "left"}, "left"], [{"schema": "flow", "name": "tie"}, "tie"]]
    state = {"user_id": "ann", "instance_id_to_label_to_value": {pair: logged}}
    (tmp_path / "annotation_output/ann/user_state.json").write_text(json.dumps(state))
    line = {"id": pair, "displayed_text": "", "label_annotations": {"flow": {"right": "true"}}}
    (tmp_path / "annotation_output/bob/annotated_instances.jsonl").write_text(json.dumps(line) + "\n")
    votes = exchange.read(study, "potato", tmp_path / "annotation_output")
    assert votes.select("pair_id", "criterion", "choice", "rater").rows() == [
        (pair, "flow", "tie", "ann"),
        (pair, "flow", "right", "bob"),
    ]


def test_label_studio_is_configured_blind_and_read(study: Study, tmp_path: Path) -> None:
    config, tasks = exchange.write(study, "labelstudio", tmp_path / "out")
    names = [tag.get("name") for tag in ElementTree.fromstring(config.read_text()).iter("Choices")]
    assert names == [question.criterion for question in study.questions]
    task, *_ = json.loads(tasks.read_text())
    assert "run-a" not in tasks.read_text()
    result = {"from_name": "flow", "to_name": "left", "type": "choices", "value": {"choices": ["right"]}}
    done = {"completed_by": {"id": 3, "email": "e@example.org"}, "result": [result, {**result, "from_name": "real"}]}
    exported = [{**task, "annotations": [{**done, "lead_time": 9.0}, {**done, "was_cancelled": True}]}]
    (tmp_path / "export.json").write_text(json.dumps(exported))
    votes = exchange.read(study, "labelstudio", tmp_path / "export.json")
    assert votes.select("criterion", "choice", "rater", "seconds").rows() == [
        ("flow", "right", "e@example.org", 4.5),
        ("real", "right", "e@example.org", 4.5),
    ]


def test_files_without_valid_votes_are_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("pair_id,choice,rater\np,left,x\n")
    with pytest.raises(CrsError, match="column 'criterion' is missing"):
        exchange.read(study, "csv", tmp_path / "v.csv")
    (tmp_path / "v.csv").write_text("pair_id,criterion,choice,rater\np,flow,left,x\n")
    with pytest.raises(CrsError, match="pair 'p' is not in the study"):
        exchange.read(study, "csv", tmp_path / "v.csv")
    with pytest.raises(CrsError, match="cannot read votes in the format labelstudio"):
        exchange.read(study, "labelstudio", tmp_path / "none.json")
    with pytest.raises(CrsError, match="'both' is not a choice"):
        study.add(study.votes().with_columns(choice=pl.lit("both")))


# ── exports of other platforms as they are ──


def export(folder: Path, *annotations: dict[str, object], pair: str) -> Path:
    (folder / "export.json").write_text(json.dumps([{"data": {"pair_id": pair}, "annotations": annotations}]))
    return folder / "export.json"


def annotation(*chosen: str, criterion: str = "flow", **more: object) -> dict[str, object]:
    result = {"type": "choices", "from_name": criterion, "value": {"choices": chosen}}
    return {"id": 7, "completed_by": 1, "result": [result], "lead_time": 6.4, **more}


@pytest.mark.parametrize("form", ["csv", "jsonl", "potato", "labelstudio"])
def test_a_criterion_that_the_study_never_asked_is_refused(form: str, study: Study, tmp_path: Path) -> None:
    pair, path = study.pairs["pair_id"][0], tmp_path / "votes"
    if form == "csv":
        path.write_text(f"pair_id,criterion,choice,rater\n{pair},mood,left,eve\n")
    elif form == "jsonl":
        path.write_text(json.dumps({"pair_id": pair, "criterion": "mood", "choice": "left", "rater": "eve"}))
    elif form == "potato":
        (path / "eve").mkdir(parents=True)
        labels = {"instance_id_to_label_to_value": {pair: {"mood": {"left": "true"}}}}
        (path / "eve/user_state.json").write_text(json.dumps(labels))
    else:
        path = export(tmp_path, annotation("left", criterion="mood"), pair=pair)
    with pytest.raises(CrsError, match=f"{path}: vote 1 is by 'mood'; the study asks naturalness, flow, "):
        exchange.read(study, form, path)


def test_raters_without_a_name_stay_apart(study: Study, tmp_path: Path) -> None:
    pair = study.pairs["pair_id"][0]
    nobody = [annotation("left", id=number, completed_by=None) for number in (7, 8)]
    record = annotation("tie", id=9, completed_by={"id": 3, "email": "", "first_name": "A"})
    empty = annotation("tie", id=10, completed_by={"email": ""})
    votes = exchange.read(study, "labelstudio", export(tmp_path, *nobody, record, empty, pair=pair))
    assert votes["rater"].to_list() == ["annotation 7", "annotation 8", "3", "annotation 10"]
    assert votes["order"].to_list() == [0, 0, 0, 0]
    nameless = export(tmp_path, annotation("left", id=None, completed_by=None), pair=pair)
    with pytest.raises(CrsError, match="an annotation has neither completed_by nor an id"):
        exchange.read(study, "labelstudio", nameless)


def test_empty_choices_are_said_and_left_out_and_two_are_refused(study: Study, tmp_path: Path) -> None:
    pair = study.pairs["pair_id"][0]
    skipped = annotation("left", was_cancelled=True)
    path = export(tmp_path, annotation(), annotation("tie"), skipped, pair=pair)
    with pytest.warns(UserWarning, match="1 of 2 questions have no answer and are left out"):
        assert exchange.read(study, "labelstudio", path)["choice"].to_list() == ["tie"]
    with pytest.raises(CrsError, match=r"flow has more than one choice: \['left', 'right'\]"):
        exchange.read(study, "labelstudio", export(tmp_path, annotation("left", "right"), pair=pair))
    with pytest.raises(CrsError, match=r"'Left is better' is not a choice; it must be one of left, tie, right"):
        exchange.read(study, "labelstudio", export(tmp_path, annotation("Left is better"), pair=pair))


def test_json_min_and_tasks_without_annotations_are_named(study: Study, tmp_path: Path) -> None:
    pair = study.pairs["pair_id"][0]
    for row in ({"pair_id": pair, "flow": "left", "annotator": 1, "id": 0}, {"data": {"pair_id": pair}}):
        (tmp_path / "e.json").write_text(json.dumps([row]))
        with pytest.raises(CrsError, match="a task has no annotations: export from Label Studio as JSON, not as JSON-"):
            exchange.read(study, "labelstudio", tmp_path / "e.json")


@pytest.mark.parametrize(
    "content", [b"", b"7", b"[7]", b"{}", b'[{"data": [], "annotations": []}]', b"\xff", b"[" * 999]
)
def test_any_other_json_is_one_sentence(content: bytes, study: Study, tmp_path: Path) -> None:
    (tmp_path / "zoe").mkdir()
    (tmp_path / "zoe/annotated_instances.jsonl").write_bytes(content or b"[]")
    (tmp_path / "e").write_bytes(content)
    for form, path in (("labelstudio", tmp_path / "e"), ("jsonl", tmp_path / "e"), ("potato", tmp_path)):
        with pytest.raises(CrsError) as caught:
            exchange.read(study, form, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_line_separators_inside_texts_end_no_line(study: Study, tmp_path: Path) -> None:
    """U+2028, U+0085 and others end a line for `str.splitlines`, and stand inside texts."""
    pair = study.pairs["pair_id"][0]
    line = {"id": pair, "displayed_text": "a\u2028b\x85c\x0bd\x1ee", "label_annotations": {"flow": {"right": "true"}}}
    (tmp_path / "out/bob").mkdir(parents=True)
    text = json.dumps(line, ensure_ascii=False) + "\r\n"
    (tmp_path / "out/bob/annotated_instances.jsonl").write_text(text, encoding="utf-8", newline="")
    vote = {"pair_id": pair, "criterion": "flow", "choice": "tie", "rater": "a\u2028b"}
    (tmp_path / "v.jsonl").write_text(json.dumps(vote, ensure_ascii=False) + "\n", encoding="utf-8")
    assert exchange.read(study, "potato", tmp_path / "out")["choice"].to_list() == ["right"]
    assert exchange.read(study, "jsonl", tmp_path / "v.jsonl")["rater"].to_list() == ["a\u2028b"]


def test_halves_of_surrogate_pairs_in_votes_are_one_sentence(study: Study, tmp_path: Path) -> None:
    pair = study.pairs["pair_id"][0]
    vote = {"pair_id": pair, "criterion": "flow", "choice": "left", "rater": "zo\ud83d"}
    (tmp_path / "v.jsonl").write_text(json.dumps(vote) + "\n")
    export(tmp_path, annotation("left", completed_by="zo\udc00"), pair=pair)
    for form, name in (("jsonl", "v.jsonl"), ("labelstudio", "export.json")):
        with pytest.raises(CrsError, match=f"cannot read votes in the format {form} .*hex escape"):
            exchange.read(study, form, tmp_path / name)


def test_sides_that_a_pair_does_not_have_are_refused(study: Study, tmp_path: Path) -> None:
    row = study.pairs.row(0, named=True)
    head, cells = "pair_id,criterion,choice,rater,left_condition", f"{row['pair_id']},flow,left,eve"
    (tmp_path / "v.csv").write_text(f"{head}\n{cells},{row['left_condition']}\n")
    assert exchange.read(study, "csv", tmp_path / "v.csv").height == 1
    (tmp_path / "v.csv").write_text(f"{head}\n{cells},another\n")
    with pytest.raises(CrsError, match="vote 1 has other dialogues than pair"):
        exchange.read(study, "csv", tmp_path / "v.csv")


def test_second_answers_of_one_rater_are_said(study: Study, tmp_path: Path) -> None:
    pair = study.pairs["pair_id"][0]
    path = export(
        tmp_path, annotation("left"), annotation("right", id=8), annotation("left", id=9, completed_by=2), pair=pair
    )
    with pytest.warns(UserWarning, match="1 answers are second ones of a rater to the same; the first counts"):
        study.add(exchange.read(study, "labelstudio", path))
    rates = analysis.win_rates(study.votes().filter(criterion="flow"))
    assert rates.select("value", "votes").rows() in ([(0.0, 2)], [(1.0, 2)])
