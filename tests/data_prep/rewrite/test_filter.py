import io
import json
import platform
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.rewrite.asking import Unusable
from data_prep.rewrite.filter import NOTHING, check
from data_prep.writer.dataset import DatasetWriter

REPORTS = {
    "a": "Compared to the prior study, the heart is large. Dr. ___ was informed.",
    "b": "The lungs are clear.",
    "c": "No change since the prior study.",
}
VISIBLE = {"a": "The heart is large.", "b": "The lungs are clear.", "c": NOTHING}


def png(width, height):
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path, make_sample):
    with DatasetWriter(tmp_path / "data") as writer:
        for side, (name, report) in enumerate(REPORTS.items(), 50):
            own = {"id": name, "patient_id": name, "image": png(side, 30), "width": side}
            writer.add(make_sample(**own, task="report", report=report, boxes=()))
        writer.add(make_sample(id="g", patient_id="g"))
    return tmp_path / "data"


@pytest.fixture
def ask(data, tmp_path, judge_server):
    """Run the command with the fake server, which answers as it should."""

    def answer(prompt):
        return next(VISIBLE[name] for name, report in REPORTS.items() if f"\n{report}\n" in prompt)

    judge_server.answer = answer

    def run(*more, yes=True):
        model = ["--endpoint", judge_server.url, "--model", "m", *(["--yes"] if yes else [])]
        return main(["filter", str(data), "--out", str(tmp_path / "out"), *model, *more])

    return run


def reports(rows, folder, name="train"):
    truths = [json.loads(row["reward_model"]["ground_truth"]) for row in rows(folder / f"{name}.parquet")]
    return {truth["id"]: truth.get("report") for truth in truths}


def problems(folder):
    return [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]


def test_a_model_rewrites_all_files(ask, rows, data, tmp_path, judge_server, capsys):
    assert ask() == 0
    out = tmp_path / "out"
    assert reports(rows, out) == {"a": "The heart is large.", "b": "The lungs are clear.", "g": None}
    answers = [row["messages"][1]["content"] for row in rows(out / "sft_train.parquet")]
    assert answers[:2] == ["The heart is large.", "The lungs are clear."] and len(answers) == 3
    assert reports(rows, data)["a"] == REPORTS["a"]
    assert [problem["kind"] for problem in problems(out)] == ["nothing visible left"] * 2  # in the RL and the SFT file
    told = json.loads((out / "filter.json").read_text())
    assert (told["model"], told["changed"], told["rows_left_out"], told["failed"]) == ("m", 4, 2, 0)
    assert {request["temperature"] for request in judge_server.requests} == {0.0}
    said = capsys.readouterr()
    assert "3 requests to make" in said.err and "only go where their license allows" in said.err
    assert "6 reports, 4 changed, 2 left out, 0 failed" in said.out
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}  # all of them hold reports
    assert main(["validate", str(out)]) == 0


def test_nothing_is_asked_twice(ask, judge_server, tmp_path):
    assert ask() == ask() == 0
    assert len(judge_server.requests) == 3
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as journal:
        journal.execute("DELETE FROM answers WHERE source LIKE '%row 1'")
    assert ask() == 0
    assert len(judge_server.requests) == 4
    assert ask("--model", "other") == 0  # the last --model counts: another one has answered nothing yet
    assert len(judge_server.requests) == 7


def test_a_dry_run_writes_and_asks_nothing(ask, judge_server, tmp_path, capsys):
    assert ask("--dry-run", yes=False) == 0
    assert "3 questions, 0 of them answered in the journal" in capsys.readouterr().err
    assert judge_server.requests == [] and not (tmp_path / "out").exists()


def test_nobody_is_there_to_agree(ask, judge_server, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert ask(yes=False) == 2
    assert "give --yes to start, or --dry-run" in capsys.readouterr().err
    assert judge_server.requests == []


def test_somebody_declines(ask, judge_server, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert ask(yes=False) == 0
    assert judge_server.requests == []


@pytest.mark.parametrize(
    ("handling", "status", "left"),
    [("stop", 1, None), ("rules", 0, "The heart is large."), ("keep", 0, REPORTS["a"])],
)
def test_reports_that_the_model_fails_on_are_not_dropped(
    ask, rows, judge_server, tmp_path, capsys, handling, status, left
):
    good = judge_server.answer
    judge_server.answer = lambda prompt: "Here is the edited report." if "___" in prompt else good(prompt)
    assert ask("--on-failure", handling) == status
    assert "unusable answer: 1" in capsys.readouterr().err
    assert problems(tmp_path / "out")[0]["detail"] == "talks about the task: 'Here is the'"
    assert [request["temperature"] for request in judge_server.requests if "___" in str(request)] == [0.0, 0.3, 0.6]
    if left is None:
        assert not list((tmp_path / "out").glob("*.parquet"))
        judge_server.answer = good
        assert ask() == 0  # asks for this one only
        assert len(judge_server.requests) == 6
    else:
        assert reports(rows, tmp_path / "out")["a"] == left


def test_an_answer_cut_off_is_unusable(ask, judge_server, tmp_path):
    judge_server.finish_reason = "length"
    assert ask() == 1
    assert "was cut off at --max-tokens 1024" in problems(tmp_path / "out")[0]["detail"]


def test_a_dead_server_stops_the_run(tmp_path, judge_server, capsys):
    lines = [json.dumps({"report": f"Film {i} is clear."}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    judge_server.reply = lambda request: (400, {"Content-Type": "application/json"}, b"{}")
    model = ["--endpoint", judge_server.url, "--model", "m", "--yes", "--concurrency", "2"]
    assert main(["filter", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), *model]) == 1
    assert "failures in a row" in capsys.readouterr().err
    assert len(judge_server.requests) < 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_was(tmp_path, judge_server, number):
    lines = [json.dumps({"report": f"Film {i} is clear."}) for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    asked, hold = [], True

    def answer(prompt):
        asked.append(prompt)
        if hold and len(asked) > 5:
            judge_server.stopped.wait(60)
        return prompt.split("\n")[-3]

    judge_server.answer = answer
    out = tmp_path / "out"
    arguments = ["filter", str(tmp_path / "a.jsonl"), "--out", str(out), "--endpoint", judge_server.url]
    arguments += ["--model", "m", "--yes", "--concurrency", "1"]
    run = subprocess.Popen([sys.executable, "-m", "data_prep", *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(asked) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == (-9 if number == signal.SIGKILL else 143)
    assert number == signal.SIGKILL or ("the same command resumes" in errors and "Traceback" not in errors)
    assert {path.name.removesuffix("-journal") for path in out.iterdir()} == {"journal.sqlite"}
    hold = False
    assert main(arguments) == 0
    assert len(asked) == 6 + 7  # five were kept
    assert len((out / "a.jsonl").read_text().splitlines()) == 12


def test_many_at_a_time(tmp_path, judge_server):
    lines = [json.dumps({"report": f"Film {i} is clear.", "n": i}) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    together = threading.Barrier(6, timeout=30)

    def answer(prompt):
        together.wait()
        return prompt.split("\n")[-3]

    judge_server.answer = answer
    model = ["--endpoint", judge_server.url, "--model", "m", "--yes", "--concurrency", "6"]
    assert main(["filter", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), *model]) == 0
    assert [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()] == [
        json.loads(line) for line in lines
    ]


def test_a_second_run_leaves_only_its_own_files_and_the_users(data, make_sample, tmp_path, capsys):
    out, own = tmp_path / "out", {"patient_id": "a", "image": png(50, 30), "width": 50, "boxes": ()}
    with DatasetWriter(tmp_path / "before") as writer:
        writer.add(make_sample(id="v", split="val", task="report", report="The lungs are clear. No change.", **own))
    assert main(["filter", str(tmp_path / "before"), "--rules", "--out", str(out)]) == 0
    assert (out / "val.parquet").exists() and (out / "sft_val.parquet").exists()
    film = out / "images" / f"{'0' * 20}.png"  # a row elsewhere may show it
    film.parent.mkdir()
    for path in (film, out / "notes.txt"):
        path.write_text("mine")
    (out / "traces.json").write_text(json.dumps({"model": "m"}, indent=1))
    assert main(["filter", str(data), "--rules", "--out", str(out)]) == 0
    wanted = {"train.parquet", "sft_train.parquet", "filter.json", "problems.jsonl", "images", "notes.txt"}
    assert {path.name for path in out.iterdir()} == wanted and film.exists()
    with DatasetWriter(out) as writer:
        writer.add(make_sample())
    assert not (out / "filter.json").exists() and (out / "notes.txt").exists()


def test_rules_need_no_server(data, rows, tmp_path, capsys):
    left_by_a_kill = tmp_path / "out" / f".unfinished-{platform.node()}-x"
    left_by_a_kill.mkdir(parents=True)
    (left_by_a_kill / "lock").touch()
    assert main(["filter", str(data), "--rules", "--out", str(tmp_path / "out")]) == 0
    assert not left_by_a_kill.exists()
    assert reports(rows, tmp_path / "out") == {"a": "The heart is large.", "b": "The lungs are clear.", "g": None}
    assert json.loads((tmp_path / "out" / "filter.json").read_text())["method"] == "rules"
    assert len(problems(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "is empty"),
        ("<think>hm</think>", "is empty"),
        ("The heart is large. " * 9, "characters, the report only"),
        ("The heart is 3 cm large.", "numbers that are not in the report: 3"),
        ("Findings: The heart is large.", "has a heading"),
        ("# Report\nThe heart is large.", "has a heading"),
        ("- The heart is large.", "has a heading or a list"),
        ("I have removed the comparison.", "talks about the task"),
        ("The original report is empty.", "talks about the task"),
        ("The heart is large, unchanged.", "still compares: 'unchanged'"),
        ("The heart is large. ___", "the mark of a removed name"),
    ],
)
def test_answers_that_are_not_used(answer, reason):
    with pytest.raises(Unusable, match=reason):
        check(REPORTS["a"], answer)


def test_answers_that_are_used():
    assert check(REPORTS["a"], " The heart\nis large. ") == "The heart is large."
    assert check(REPORTS["a"], f"<think>All of it.</think>\n'{NOTHING}.'") == ""
    assert check("Findings: nodule of 5 mm.", "Findings: nodule of 5 mm.") == "Findings: nodule of 5 mm."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/data", "--out", "{}/out"], "give either --endpoint and --model, or --rules"),
        (["{}/data", "--out", "{}/data", "--rules"], "choose another folder"),
        (["{}/data/sft_train.parquet", "--out", "{}/out", "--rules"], "give the RL files of the same data"),
        (["{}/data", "{}/data/train.parquet", "--out", "{}/out", "--rules"], "two of the files have the same name"),
        (["{}/nowhere", "--out", "{}/out", "--rules"], "no such file"),
    ],
)
def test_wrong_use_has_status_2(data, tmp_path, capsys, arguments, message):
    assert main(["filter", *(argument.format(tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_data_are_refused_and_nothing_is_left(data, tmp_path, capsys):
    path = data / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["filter", str(data), "--rules", "--out", str(tmp_path / "out")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text('{"report": "Clear lungs."}\n{"report"')
    assert main(["filter", str(tmp_path / "bad.jsonl"), "--rules", "--out", str(tmp_path / "out")]) == 1
    assert "bad.jsonl line 2" in capsys.readouterr().err
    (tmp_path / "latin.jsonl").write_bytes(b'{"report": "\xe9tude"}\n')
    assert main(["filter", str(tmp_path / "latin.jsonl"), "--rules", "--out", str(tmp_path / "out")]) == 1
    assert "latin.jsonl line 1" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


HALF = "\\ud83d"  # a JSON escape of half a surrogate pair, as a cut text leaves


def test_a_line_with_half_a_surrogate_pair_or_deep_nesting_is_named(tmp_path, capsys):
    for name, line in (("half", f'{{"report": "Clear {HALF} lungs."}}'), ("deep", "[" * 99999 + "]" * 99999)):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"report": "Clear lungs."}}\n{line}\n')
        arguments = ["filter", str(tmp_path / f"{name}.jsonl"), "--rules", "--out", str(tmp_path / "out")]
        assert main(arguments) == 1
        assert f"{name}.jsonl line 2: " in capsys.readouterr().err
        assert list((tmp_path / "out").iterdir()) == []


def test_a_ground_truth_with_half_a_surrogate_pair_is_named(data, tmp_path, capsys):
    path = data / "train.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1]["reward_model"]["ground_truth"] = f'{{"report": "Clear {HALF} lungs."}}'
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert main(["filter", str(data), "--rules", "--out", str(tmp_path / "out")]) == 1
    assert "train.parquet row 1: ground_truth holds half of a surrogate pair" in capsys.readouterr().err


def test_an_answer_that_no_file_can_hold_is_unusable(ask, judge_server, tmp_path):
    good = judge_server.answer
    judge_server.answer = lambda prompt: "The heart \ud83d is." if "___" in prompt else good(prompt)
    assert ask() == 1
    (problem,) = problems(tmp_path / "out")
    assert problem["kind"] == "unusable answer" and "half of a surrogate pair" in problem["detail"]


def test_a_reply_nested_too_deeply_is_listed(tmp_path, judge_server, capsys):
    (tmp_path / "a.jsonl").write_text('{"report": "Clear lungs."}\n')
    body = b'{"choices": ' + b"[" * 99999 + b"]" * 99999 + b"}"
    judge_server.reply = lambda request: (200, {"Content-Type": "application/json"}, body)
    model = ["--endpoint", judge_server.url, "--model", "m", "--yes"]
    assert main(["filter", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), *model]) == 1
    assert problems(tmp_path / "out")[0]["kind"] == "no answer"
    assert "Traceback" not in capsys.readouterr().err
