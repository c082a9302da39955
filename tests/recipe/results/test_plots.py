import json
import re
import warnings

import pytest
from made_results import grounding_rows, report_rows, write_results

from recipe.cxr_grpo.results import plots
from recipe.cxr_grpo.results.evaluations import read_evaluations

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    for model, quality in (("before", 0.4), ("$\\frac{a$ <b>", 0.7)):
        write_results(root, model, "mimic_cxr", report_rows(30, quality))
        write_results(root, model, "demo", grounding_rows(30, quality))
    return read_evaluations([root])


@pytest.fixture
def run(tmp_path):
    """A run of two steps with two validations, of which the second earns more on own films."""
    out = tmp_path / "run"
    for folder in ("rollouts", "validation"):
        (out / folder).mkdir(parents=True)
    rows, logged = [], []
    for step in (0, 1, 2):
        data = {
            "reward/report/radcliq/mean": -1.0,
            "reward/report/radcliq/floor_rate": 0.0,
            "response_length/mean": 50.0,
        }
        logged.append({"step": step, "data": data | {"val-aux/demo/report/radcliq/mean@1": -1.0 + step / 10}})
        rows += [{"step": step, "id": f"s{i}", "task": "report", "radcliq": -1 + i / 10} for i in range(4) if step]
        dump = []
        for number in range(6):
            for films in ("own", "swapped"):
                truth = {"id": str(number), "patient_id": f"p{number}", "task": "report", "box_format": "radvlm"}
                truth |= {"report": "Clear."} | ({"films": films} if films != "own" else {})
                score = 0.3 + (0.1 * step if films == "own" else 0) + number / 100
                dump.append({"input": "", "output": "Clear.", "gts": json.dumps(truth), "score": score})
        (out / "validation" / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dump))
    (out / "grpo.metrics.1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    (out / "rollouts" / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def test_every_picture_is_drawn_and_has_the_same_bytes_again(results, run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = plots.draw(results, [run], tmp_path)
    names = {"iou", "length", "correlation", "findings", "curves", "films"}
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    first = {path: path.read_bytes() for path in paths}
    plots.draw(results, [run], tmp_path)
    assert {path: path.read_bytes() for path in paths} == first
    for path in paths:
        assert first[path].startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
    comments = " ".join(re.findall(r"<!-- (.*?) -->", first[tmp_path / "curves.svg"].decode()))
    assert "run: report/radcliq" in comments
    assert "the paper" in comments


class Axes:
    """Keeps what is drawn."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.append((name, args, options))


def drawn(picture, results, runs=()):
    found = []
    for name, title, on in (*plots._of_results(results), *(panel for run in runs for panel in plots._of_run(run))):
        if name == picture:
            on(axes := Axes())
            found.append((title, axes.calls))
    return found


def test_findings_have_their_own_values(results):
    of = dict(drawn("findings", results))
    bars = [call for call in of["by finding, demo"] if call[0] == "errorbar"]
    rows = [row for row in grounding_rows(30, 0.4) if row["labels"] == ["opacity"]]
    (ticks,) = [call for call in of["by finding, demo"] if call[0] == "set_yticks"]
    place = ticks[1][1].index("opacity")
    before = bars[[bar[2]["label"] for bar in bars].index("before")]
    assert before[1][0][place] == pytest.approx(sum(row["metrics"]["ap50_paper"] for row in rows) / len(rows))
    assert len(next(call for call in of["by finding, mimic_cxr"] if call[0] == "errorbar")[1][0]) == 14


def test_what_was_not_measured_is_not_drawn(tmp_path):
    rows = [row | {"counts": {}, "metrics": {"rouge_l": 0.5, "answer_chars": 9.0}} for row in report_rows(10, 0.5)]
    write_results(tmp_path, "m", "demo", rows)
    found = read_evaluations([tmp_path])
    assert {panel[0] for panel in plots._of_results(found)} == {"length", "correlation"}
    ((_, calls),) = drawn("length", found)
    assert calls[0][1][1].tolist() == [0.5] * 10  # without RadCliQ, the first metric


def test_film_dependence_is_drawn_over_the_steps(run):
    ((_, calls),) = drawn("films", [], [run])
    (plot,) = [call for call in calls if call[0] == "plot" and call[2].get("label")]
    assert plot[2]["label"] == "report, own minus swapped"
    assert plot[1][0] == [0, 1, 2]
    assert plot[1][1] == pytest.approx([0, 0.1, 0.2])


def test_the_papers_landmarks_are_drawn_for_its_reward_only(run):
    of = dict(drawn("curves", [], [run]))
    labels = [call[2]["label"] for call in of["run: report/radcliq"] if "the paper" in call[2].get("label", "")]
    assert labels == ["the paper's, without thinking", "the paper's, thinking"]
    text = (run / "grpo.metrics.1.jsonl").read_text().replace("radcliq", "gleu")
    (run / "grpo.metrics.1.jsonl").write_text(text)
    (run / "rollouts" / "1.jsonl").write_text((run / "rollouts" / "1.jsonl").read_text().replace("radcliq", "gleu"))
    assert not any("the paper" in call[2].get("label", "") for _, calls in drawn("curves", [], [run]) for call in calls)
