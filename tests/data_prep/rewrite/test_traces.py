import base64
import io
import json
import sqlite3

import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.rewrite.asking import Unusable
from data_prep.rewrite.traces import check
from data_prep.writer.dataset import DatasetWriter

TRACE = "The left base is dense and the costophrenic angle is lost, so an effusion is likely."


@pytest.fixture
def data(tmp_path, make_sample):
    with DatasetWriter(tmp_path / "data", max_pixels=1024) as writer:
        for i in range(40):
            shade = io.BytesIO()
            Image.new("L", (80, 60), i).save(shade, "PNG")
            own = {"id": f"s{i}", "patient_id": f"p{i}", "image": shade.getvalue(), "width": 80, "height": 60}
            writer.add(make_sample(**own))
    return tmp_path / "data"


@pytest.fixture
def ask(data, tmp_path, judge_server):
    """Run the command with the fake server, which answers as it should."""

    def answer(parts):
        return f"<think>\n{TRACE}\n</think>\n{parts[1]['text'].split('says, between')[1].splitlines()[2]}"

    judge_server.answer = answer

    def run(*more):
        model = ["--endpoint", judge_server.url, "--model", "m", "--yes", "--words", "5,40"]
        return main(["traces", str(data), "--out", str(tmp_path / "out"), *model, *more])

    return run


def test_traces_are_mixed_with_direct_answers(ask, data, rows, tmp_path, judge_server, capsys):
    assert ask("--direct-share", "0.25") == 0
    before, after = rows(data / "sft_train.parquet"), rows(tmp_path / "out" / "sft_train.parquet")
    assert len(before) == len(after) == 40
    traced = 0
    for old, new in zip(before, after, strict=True):
        assert new["images"] == old["images"]
        (question, answer), (asked, said) = ([turn["content"] for turn in row["messages"]] for row in (old, new))
        if asked == question:
            assert said == answer
        else:
            assert asked == f"{question} /think"
            assert said == f"<think>\n{TRACE}\n</think>\n\n{answer}"
            traced += 1
    assert traced == len(judge_server.requests) == 30
    told = json.loads((tmp_path / "out" / "traces.json").read_text())
    assert (told["traced"], told["direct"], told["failed"], told["model"]) == (30, 10, 0, "m")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}
    assert "30 rows with a trace, 10 direct" in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "out")]) == 0


def test_a_second_run_leaves_no_file_of_the_first(ask, data, make_sample, tmp_path):
    assert ask("--direct-share", "1") == 0
    out, film = tmp_path / "out", {"image": b"png", "width": 80, "height": 60}
    with DatasetWriter(tmp_path / "other") as writer:
        writer.add(make_sample(split="val", **film))
    model = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--yes", "--direct-share", "1"]
    assert main(["traces", str(tmp_path / "other"), "--out", str(out), *model]) == 0
    assert {path.name for path in out.iterdir()} == {"sft_val.parquet", "traces.json", "journal.sqlite"}
    with DatasetWriter(out) as writer:
        writer.add(make_sample(**film))
    assert not (out / "traces.json").exists()


def test_the_teacher_sees_the_film_in_the_size_of_the_row(ask, judge_server):
    assert ask("--direct-share", "0") == 0
    image, text = judge_server.requests[0]["messages"][0]["content"]
    kind, _, data = image["image_url"]["url"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as film:
        assert kind == "data:image/jpeg;base64" and film.size == (36, 27)  # 80 x 60 within 1024 pixels
    assert "[0.1, 0.2, 0.5, 0.75]" in text["text"] and "<image>" not in text["text"]
    assert judge_server.requests[0]["temperature"] == 0.7


def test_an_interrupted_run_goes_on(ask, judge_server, tmp_path):
    assert ask() == 0
    asked = len(judge_server.requests)
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as journal:
        journal.execute("DELETE FROM answers WHERE key NOT IN (SELECT key FROM answers LIMIT 5)")
    assert ask() == 0
    assert len(judge_server.requests) == asked + asked - 5


@pytest.mark.parametrize(("handling", "status"), [("stop", 1), ("direct", 0)])
def test_rows_that_the_teacher_fails_on_are_not_dropped(ask, rows, judge_server, tmp_path, capsys, handling, status):
    judge_server.answer = lambda parts: "<think>I was told the answer, so it is easy to see here.</think> yes"
    assert ask("--direct-share", "0.8", "--on-failure", handling) == status
    listed = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert {problem["kind"] for problem in listed} == {"unusable answer"}
    assert len(listed) * 3 == len(judge_server.requests)
    if handling == "direct":
        assert f"0 rows with a trace, {40 - len(listed)} direct, {len(listed)} direct after" in capsys.readouterr().out
        assert len(rows(tmp_path / "out" / "sft_train.parquet")) == 40
    else:
        assert not (tmp_path / "out" / "sft_train.parquet").exists()


def test_a_film_that_is_gone_is_told_of(ask, data, tmp_path, capsys):
    next((data / "images").iterdir()).unlink()
    assert ask("--direct-share", "0") == 1
    assert "no image to show: " in capsys.readouterr().err


def test_the_cost_is_told_first(ask, judge_server, tmp_path, capsys):
    assert ask("--dry-run", "--direct-share", "0") == 0
    assert "40 questions, 0 of them answered in the journal, 0 repeated; 40 requests" in capsys.readouterr().err
    assert judge_server.requests == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", "is not one <think>"),
        (f"<think>{TRACE}<think></think> [0.1, 0.2, 0.3, 0.4]", "is not one <think>"),
        (f"Sure. <think>{TRACE}</think> [0.1, 0.2, 0.3, 0.4]", "is not one <think>"),
        (f"<think>{TRACE}</think> [0.1, 0.2, 0.3, 0.5]", "changes the answer"),
        (f"<think>{TRACE}</think> The box is [0.1, 0.2, 0.3, 0.4]", "changes the answer"),
        (f"<think>{TRACE}</think>", "changes the answer"),
        ("<think>Dense left base.</think> [0.1, 0.2, 0.3, 0.4]", "a trace of 3 words, need 5 to 20"),
        (f"<think>{TRACE * 5}</think> [0.1, 0.2, 0.3, 0.4]", "words, need 5 to 20"),
        ("<think>The reference answer puts it at the left.</think> [0.1, 0.2, 0.3, 0.4]", "what it was given"),
        ("<think>By the ground truth it is the left.</think> [0.1, 0.2, 0.3, 0.4]", "what it was given"),
        ("<think>Since I was given this box, it fits.</think> [0.1, 0.2, 0.3, 0.4]", "what it was given"),
        ("<think>This <image> has a dense left base.</think> [0.1, 0.2, 0.3, 0.4]", "has <image> in its trace"),
    ],
)
def test_traces_that_are_not_used(answer, reason):
    with pytest.raises(Unusable, match=reason):
        check(answer, "[0.1, 0.2, 0.3, 0.4]", 5, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/data/train.parquet", "--out", "{}/out"], "no SFT file in"),
        (["{}/data", "--out", "{}/data"], "choose another folder"),
        (["{}/data", "{}/data", "--out", "{}/out"], "same name"),
    ],
)
def test_wrong_use_has_status_2(data, tmp_path, judge_server, capsys, arguments, message):
    model = ["--endpoint", judge_server.url, "--model", "m", "--yes"]
    assert main(["traces", *(argument.format(tmp_path) for argument in arguments), *model]) == 2
    assert message in capsys.readouterr().err
