"""Judges of reports: what they answered is beside the scores, and the second is not the first."""

import json
import re

import fake_openai
import pytest

from recipe.cxr_grpo import tables

judge_server = fake_openai.judge_server
HOSTILE = "</script><img src=x onerror=alert(1)>"


def size(prompt):
    return int(re.search(r"Nodule of (\d) mm", prompt)[1])


def of_green(prompt):
    errors = f"[Clinically Significant Errors]:\n(a) False: {size(prompt)}. x"
    return f"[Explanation]: {HOSTILE} {size(prompt)} mm\n{errors}\n\n[Matched Findings]:\n1. y"


def of_json(prompt):
    none = dict.fromkeys("abcdef", 0)
    told = {"is_report": True, "explanation": f"I see {size(prompt)} mm.", "significant_errors": none | {"b": 3}}
    return json.dumps(told | {"insignificant_errors": none, "matched_findings": size(prompt)})


@pytest.fixture
def second(judge_server, monkeypatch):
    """Another server than the first judge's, with the variables of both."""
    judge_server.answer = of_green
    with fake_openai.serving() as server:
        server.answer = of_json
        for beginning, of in (("CXR_GRPO_JUDGE", judge_server), ("CXR_GRPO_SECOND_JUDGE", server)):
            monkeypatch.setenv(f"{beginning}_URL", of.url)
            monkeypatch.setenv(f"{beginning}_KEY", f"key-of-{of.server_port}")
        monkeypatch.setenv("CXR_GRPO_SECOND_JUDGE_MODEL", "another")
        yield server


@pytest.fixture
def evaluated(prepare, jsonl, run):
    """Evaluate three reports of which each is another, and one that is missing."""
    rows = [{"id": f"r{number}", "prediction": f" Nodule of {number + 1} mm. "} for number in range(3)]

    def call(metrics):
        return run("--predictions", jsonl(rows), "--data", prepare(), "--model", "m", metrics=metrics)

    return call


def test_both_judges_stand_side_by_side_with_what_they_said(second, judge_server, evaluated, tmp_path):
    done = evaluated("rouge_l,green,second_judge")
    assert done.status == 0, done.err
    results, scores = done.read("m/mine-report/own")
    for number in (1, 2, 3):
        row = scores[f"r{number - 1}"]
        assert row["metrics"]["green"] == 1 / (1 + number)
        assert row["metrics"]["second_judge"] == number / (number + 3)
        prompt = f"Nodule of {number} mm"
        assert row["explanation"] == f"green: {of_green(prompt)}\n\nsecond_judge: {of_json(prompt)}"
    assert scores["r3"]["metrics"]["second_judge"] == 0.0 and "explanation" not in scores["r3"]
    published = {"model": "StanfordAIMI/GREEN-radllama2-7b", "host": f"127.0.0.1:{judge_server.server_port}"}
    another = {"model": "another", "host": f"127.0.0.1:{second.server_port}"}
    assert results["judges"] == {"green": published, "second_judge": another}
    for server in (judge_server, second):
        assert {request["authorization"] for request in server.requests} == {f"Bearer key-of-{server.server_port}"}
    written = "".join(path.read_text() for path in done.folder.rglob("*.json*"))
    assert "key-of" not in written
    assert tables.main([str(done.folder), "--out", str(tmp_path / "tables")]) == 0
    assert any("| GRN | 2nd judge |" in path.read_text() for path in (tmp_path / "tables").glob("*.md"))


def test_the_second_judge_alone(second, judge_server, evaluated):
    done = evaluated("second_judge")
    results, scores = done.read("m/mine-report/own")
    assert [*results["judges"]] == ["second_judge"] and judge_server.requests == []
    assert scores["r1"]["explanation"] == f"second_judge: {of_json('Nodule of 2 mm')}"


@pytest.mark.parametrize("model", ["", "another"])
def test_the_first_judge_is_no_second_one(second, judge_server, evaluated, monkeypatch, model):
    monkeypatch.setenv("CXR_GRPO_JUDGE_MODEL", model)
    monkeypatch.setenv("CXR_GRPO_SECOND_JUDGE_MODEL", model or "StanfordAIMI/GREEN-radllama2-7b")
    monkeypatch.setenv("CXR_GRPO_SECOND_JUDGE_URL", judge_server.url + "/")
    done = evaluated("rouge_l,second_judge")
    assert (
        done.status == 2
        and "CXR_GRPO_SECOND_JUDGE_URL and _MODEL name the same judge as CXR_GRPO_JUDGE_URL" in done.err
    )
    assert judge_server.requests == [] and not done.folder.exists()
    # Another model of the same server is another judge.
    monkeypatch.setenv("CXR_GRPO_SECOND_JUDGE_MODEL", "a third")
    judge_server.answer = of_json
    assert evaluated("second_judge").status == 0


@pytest.mark.parametrize("missing", ["URL", "MODEL"])
def test_a_second_judge_that_nobody_names(second, judge_server, evaluated, monkeypatch, missing):
    monkeypatch.delenv(f"CXR_GRPO_SECOND_JUDGE_{missing}")
    done = evaluated("green,second_judge")
    assert done.status == 2 and f"environment variable CXR_GRPO_SECOND_JUDGE_{missing}" in done.err
    assert judge_server.requests == [] and not done.folder.exists()
