import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import reward_fns
from reward_fns.commands.cli import main

TRUTH = {"boxes": [[0.38, 0.47, 0.76, 0.62]]}
FIGURE = {"task": "grounding", "prediction": "[0.35, 0.51, 0.75, 0.64]", "ground_truth": TRUTH}
REPORT = {"task": "report", "prediction": "Clear lungs.", "ground_truth": json.dumps({"report": "Clear lungs."})}


@pytest.fixture
def rows(tmp_path):
    """Write rows to in.jsonl; texts as they are."""

    def write(*content):
        path = tmp_path / "in.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in content]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def read(text):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_score(command, rows, tmp_path):
    path = rows(FIGURE | {"id": 7}, REPORT, {**FIGURE, "prediction": "x [350, 510, 750, 640]", "box_format": "qwen3vl"})
    done = command("score", "--rewards", "box_soft_f1,gleu", "--file", path, "--out", "out.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    first, second, third = read((tmp_path / "out.jsonl").read_text())
    assert list(first) == ["id", "score", "acc", "box_soft_f1", "gleu", "format_ok", "model_failed", "answer_chars",
                           "n_boxes", "n_invalid_boxes"]  # fmt: skip
    assert (first["id"], first["gleu"], "id" in second, second["gleu"]) == (7, None, False, 1.0)
    assert first["score"] == pytest.approx(0.596, abs=5e-4) and third["score"] == pytest.approx(first["score"])
    assert "grounding: 2 rows" in done.stderr and "report: 1 rows" in done.stderr
    assert os.listdir(tmp_path) == ["in.jsonl", "out.jsonl"] or len(os.listdir(tmp_path)) == 2  # nothing left over
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600


def test_score_to_standard_output_with_a_preset_and_a_spec(command, rows, tmp_path):
    path = rows(FIGURE)
    (result,) = read(command("score", "--preset", "paper_grounding", "--file", path).stdout)
    assert result["score"] == pytest.approx(0.747, abs=5e-4)
    (tmp_path / "spec.yaml").write_text("grounding: [{name: box_soft_f1, weight: 2}]")
    (result,) = read(command("score", "--spec", "spec.yaml", "--file", path).stdout)
    assert result["score"] == pytest.approx(1.192, abs=5e-4)


def test_default_box_format(command, rows):
    path = rows(FIGURE | {"prediction": "[35, 51, 75, 64]", "width": 100, "height": 100})
    (result,) = read(command("score", "--rewards", "box_iou", "--file", path, "--box-format", "pixel").stdout)
    assert result["score"] == pytest.approx(0.596, abs=5e-4)


def test_thinking(command, rows):
    path = rows(FIGURE | {"thinking": True}, FIGURE | {"thinking": True, "prediction": "</think> [0, 0, 1, 1]"})
    first, second = read(command("score", "--rewards", "box_iou", "--file", path).stdout)
    assert (first["model_failed"], second["model_failed"]) == (1.0, 0.0)


BAD_ROWS = [
    (b"[[[", "not a row to score"),
    (b"[" * 100_000, "not a row to score"),
    (b'"text"', "need a JSON object"),
    (b"\xff\xfe", "not a row to score"),
    ({"task": "grounding", "ground_truth": TRUTH}, "has no prediction"),
    (FIGURE | {"thinking": "false"}, "thinking must be true or false"),
    (FIGURE | {"prediction": None}, "must be a text"),
    (FIGURE | {"task": "vqa"}, "unknown task 'vqa'"),
    (FIGURE | {"task": []}, "unknown task"),
    (FIGURE | {"ground_truth": {"boxes": [[1, 2, 3, 4]]}}, "leaves the image"),
    (FIGURE | {"box_format": "pixel"}, "needs width and height"),
    (FIGURE | {"box_format": "yolo"}, "unknown box format 'yolo'"),
]


def test_bad_rows_keep_their_place_and_are_listed(command, rows):
    path = rows(FIGURE, *(row for row, _ in BAD_ROWS), b"", FIGURE | {"id": "last"})
    done = command("score", "--rewards", "box_iou", "--file", path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    results = read(done.stdout)
    assert len(results) == len(BAD_ROWS) + 2
    assert results[0]["score"] == results[-1]["score"] and results[-1]["id"] == "last"
    for result, (_, message) in zip(results[1:-1], BAD_ROWS, strict=True):
        assert message in result["error"] and result["score"] is None and list(result)[-1] == "error"
    assert f"{len(BAD_ROWS)} rows could not be scored" in done.stderr and "line 2: not a row" in done.stderr


def test_many_failures_are_counted_not_all_listed(command, rows):
    done = command("score", "--rewards", "box_iou", "--file", rows(*[b"{}"] * 700))
    assert done.returncode == 1 and "... and 680 more" in done.stderr and len(read(done.stdout)) == 700


def test_lone_surrogates_go_through(command, rows):
    row = {"task": "report", "prediction": "\ud800 \udfff", "ground_truth": {"report": "\ud800 clear"}, "id": "\ud800"}
    done = command("score", "--rewards", "gleu", "--file", rows(row, row | {"ground_truth": {}, "task": "\udfff"}))
    assert done.returncode == 1
    assert [result["id"] for result in read(done.stdout)] == ["\ud800", "\ud800"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["scores"], "invalid choice"),
        (["score", "--file", "in.jsonl"], "one of the arguments --rewards --spec --preset is required"),
        (["score", "--rewards", "box_iou", "--preset", "quickstart", "--file", "in.jsonl"], "not allowed with"),
        (["score", "--rewards", "box_iou"], "--file"),
        (["score", "--rewards", "box_io", "--file", "in.jsonl"], "did you mean 'box_iou'"),
        (["score", "--rewards", "", "--file", "in.jsonl"], "unknown reward ''"),
        (["score", "--preset", "quickstrat", "--file", "in.jsonl"], "did you mean 'quickstart'"),
        (["score", "--spec", "none.yaml", "--file", "in.jsonl"], "no reward spec none.yaml"),
        (["score", "--rewards", "box_iou", "--file", "none.jsonl"], "cannot read --file none.jsonl: No such file"),
        (["score", "--rewards", "box_iou", "--file", "."], "cannot read --file .: Is a directory"),
        (["score", "--rewards", "box_iou", "--file", "in.jsonl", "--box-format", "radvml"], "did you mean 'radvlm'"),
        (["score", "--rewards", "box_iou", "--file", "in.jsonl", "--out", "no/out.jsonl"], "cannot write --out"),
        (["score", "--rewards", "box_iou", "--file", "in.jsonl", "--out", "in.jsonl/out"], "cannot write --out"),
        (
            ["score", "--rewards", "box_iou", "--file", "in.jsonl", "--out", "/dev/full"],
            "No space left on device; free",
        ),
    ],
)
def test_wrong_use(rows, tmp_path, monkeypatch, capsys, arguments, message):
    rows(FIGURE)
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_a_file_in_the_way_is_replaced_only_on_success(rows, tmp_path, capsys):
    path, out = rows(FIGURE), tmp_path / "out.jsonl"
    out.write_text("old")
    assert main(["score", "--preset", "nope", "--file", str(path), "--out", str(out)]) == 2
    assert out.read_text() == "old"
    assert main(["score", "--rewards", "box_iou", "--file", str(path), "--out", str(out)]) == 0
    assert len(read(out.read_text())) == 1
    assert main(["score", "--rewards", "box_iou", "--file", str(path), "--out", os.devnull]) == 0
    assert not Path(os.devnull).is_file()
    assert capsys.readouterr().out == ""


def test_a_failing_reward_of_weight_zero_is_counted(rows, tmp_path, capsys):
    source = "from reward_fns import reward\n@reward('watch', task='report', range=(0, 1))\n"
    source += "def watch(prediction, reference):\n    raise OSError\n"
    (tmp_path / "mine.py").write_text(source)
    spec = tmp_path / "spec.yaml"
    spec.write_text("report: [{name: gleu}, {name: watch, path: mine.py, weight: 0}]\nfailures: {retries: 0}\n")
    assert main(["score", "--spec", str(spec), "--file", str(rows(REPORT, REPORT))]) == 1
    out, err = capsys.readouterr()
    assert [(row["score"], row["watch"]) for row in read(out)] == [(1.0, None)] * 2
    assert "2 rows have no watch" in err and "could not be scored" not in err


def test_an_os_error_is_not_always_about_the_output(rows, monkeypatch, capsys):
    def fail(*_):
        raise OSError(5, "Input/output error", "in.jsonl")

    monkeypatch.setattr("reward_fns.commands.score.score_batch", fail)
    monkeypatch.setattr("reward_fns.commands.cli.drop_output", lambda: None)
    for out in ([], ["--out", "out.jsonl"]):
        assert main(["score", "--rewards", "box_iou", "--file", str(rows(FIGURE)), *out]) == 2
        assert capsys.readouterr().err == "error: [Errno 5] Input/output error: 'in.jsonl'\n"


def test_a_value_that_is_not_yaml(rows, capsys):
    arguments = ["precision", "--rewards", "bertscore", "--file", str(rows(REPORT)), "--engine"]
    mistakes = {"dtype=[": "--engine: '[' is not a value in YAML", "cache_dir=/x": "cache_dir was removed: "}
    for given, message in (mistakes | {"dtpye=float16": "did you mean 'dtype'", "dtype": "takes name=value"}).items():
        assert main([*arguments, given]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["radgraph_f1", "radgraph_combined", "radcliq", "bertscore"])
def test_texts_are_not_cut_at_negative_lengths(name, tmp_path, rows, capsys):
    (tmp_path / "spec.yaml").write_text(f"report: [{{name: {name}, options: {{max_chars: -5}}}}]")
    assert main(["score", "--spec", str(tmp_path / "spec.yaml"), "--file", str(rows(REPORT))]) == 2
    assert f"max_chars of reward {name} must be a whole number from 0" in capsys.readouterr().err


def test_a_reader_who_leaves_early(rows):
    path = rows(*[FIGURE] * 3000)
    env = os.environ | {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
    call = [sys.executable, "-m", "reward_fns", "score", "--rewards", "box_iou", "--file", str(path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline().startswith(b'{"score"')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_no_space_for_standard_output(rows):
    env = os.environ | {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
    call = [sys.executable, "-m", "reward_fns", "score", "--rewards", "box_iou", "--file", str(rows(FIGURE))]
    with open("/dev/full", "w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, env=env, text=True)
    assert done.returncode == 2 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_list(command):
    done = command("list")
    assert done.returncode == 0
    for text in ("box_soft_f1", "grounding", "0 to 1", "higher", "variant=symmetric", "gleu", "threshold=0.5"):
        assert text in done.stdout


def test_list_presets(command):
    done = command("list", "--presets")
    assert "paper_grounding\n    grounding  1 x box_soft_f1  variant=released" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["score", "--help"]])
def test_help_has_an_example(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0 and "example: " in capsys.readouterr().out.replace("\n", " ")


def test_light_commands_import_nothing_heavy():
    code = "import sys; from reward_fns.commands.cli import main; main(['list'])"
    code += "; print(sorted(sys.modules), file=sys.stderr)"
    env = os.environ | {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    loaded = eval(done.stderr)
    assert not {"torch", "verl", "scipy", "nltk", "transformers", "data_prep", "recipe"} & set(loaded)


def test_nan_is_written_as_null(rows, tmp_path):
    out = tmp_path / "out.jsonl"
    main(["score", "--preset", "quickstart", "--file", str(rows(REPORT)), "--out", str(out)])
    (result,) = read(out.read_text())
    assert result["box_iou"] is None and not any(isinstance(v, float) and math.isnan(v) for v in result.values())
