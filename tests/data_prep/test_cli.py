import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.films import film_boxes

from data_prep import registry
from data_prep.checks.box_units import BoxUnits
from data_prep.cli import main
from reward_fns.boxes import Box

HALF = "\ud800"


def test_list_names_the_sets(capsys):
    assert main(["list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"demo", "coco"}


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["coco", "--help"]])
def test_help_has_an_example(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "example: python -m data_prep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing"], "nothing"),
        (["demo"], "--out"),
        (["demo", "--out", ""], "must name a folder"),
        (["filter", "data", "--out", "", "--rules"], "must name a folder"),
        (["traces", "data", "--out", " ", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"], "must name a folder"),
        (["demo", "--out", "x", "--patients", "0"], "--patients"),
        (["demo", "--out", "x", "--limit", "few"], "--limit"),
        (["demo", "--out", "x", "--shares", "0.5,0.6,0.1"], "--shares"),
        (["demo", "--out", "x", "--absent", "1.5"], "--absent"),
        (["coco", "--out", "x", "--root", ".", "--annotations", "a", "--patient-regex", "("], "--patient-regex"),
        (["coco", "--out", "x", "--root", ".", "--annotations", "a", "--patient-regex", "a"], "--patient-regex"),
    ],
)
def test_wrong_arguments_are_named(capsys, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("context", "named"), [("indication", "demo has no indication"), ("weather", "must be some of")]
)
def test_context_that_a_set_does_not_have_is_refused(capsys, tmp_path, context, named):
    try:
        status = main(["demo", "--out", str(tmp_path / "x"), "--context", context])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and named in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_end_of_a_prompt_is_for_prompts_that_ask_for_reasoning(capsys, tmp_path):
    command = ["demo", "--patients", "3", "--shares", "1,0,0", "--suffix", " Think.", "--out"]
    assert main([*command, str(tmp_path / "plain")]) == 2
    assert "give --thinking, too" in capsys.readouterr().err and not (tmp_path / "plain").exists()
    assert main([*command, str(tmp_path / "asked"), "--thinking"]) == 0
    prompts = pq.read_table(tmp_path / "asked" / "train.parquet")["prompt"].to_pylist()
    assert prompts and all(prompt[0]["content"].endswith(" Think.") for prompt in prompts)


@pytest.fixture
def prepare(make_sample, tmp_path, monkeypatch, capsys):
    """Runs a data set of these samples; a loader may report problems besides. Returns exit status and messages."""

    def run(samples, *options, report=lambda problems: None):
        def load(_, problems):
            report(problems)
            yield from samples

        others = {name: entry for name, entry in registry.data_sets().items() if name != "toy"}
        monkeypatch.setattr(registry, "_registered", others)
        registry.data_set("toy", summary="a toy", example="data_prep toy", arguments=lambda parser: None)(load)
        status = main(["toy", "--out", str(tmp_path / "out"), *map(str, options)])
        return status, capsys.readouterr().err

    return run


def test_a_reader_that_has_seen_enough_ends_a_listing_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run([sys.executable, "-m", "data_prep", "list"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert run.stderr == "" and run.returncode == 141


def test_one_sample_that_cannot_be_written_is_a_listed_problem(prepare, make_sample, rows, tmp_path):
    samples = [make_sample(id=f"a{HALF}"), make_sample(id="b"), make_sample(id="c", phrase=HALF)]
    status, said = prepare(samples, "--card")
    assert status == 0 and "unusable_sample: 2" in said
    listed = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    assert (tmp_path / "out/problems.jsonl").stat().st_mode & 0o777 == 0o600
    assert [problem["where"] for problem in listed] == ["a\\ud800", "c"]
    assert [row["extra_info"]["id"] for row in rows(tmp_path / "out/train.parquet")] == ["b"]
    assert prepare(samples, "--strict")[0] == 1


@pytest.mark.parametrize("more", [[], ["--max-normal", "1", "--split-file", "{}/split.csv"]])
def test_a_blank_report_is_a_listed_problem_and_the_run_goes_on(prepare, make_sample, rows, tmp_path, more):
    (tmp_path / "split.csv").write_text("patient_id,split\np1,train\n")
    texts = {"a": "The lungs are clear.", "b": " \n", "c": None, "d": "A nodule of Mr. Smith."}
    samples = [make_sample(id=name, task="report", report=text, boxes=()) for name, text in texts.items()]
    status, said = prepare(samples, *(option.format(tmp_path) for option in more))
    assert status == 0 and "unusable_sample: 2\n  b: a report sample needs a report; sample not used" in said
    assert "Sample(" not in said and "Smith" not in said
    assert [row["extra_info"]["id"] for row in rows(tmp_path / "out/train.parquet")] == ["a", "d"]
    assert prepare(samples, "--strict")[0] == 1


@pytest.mark.parametrize("about", [(), ("a.csv",)])
def test_an_os_error_blames_the_file_that_it_is_about(prepare, about):
    def fail(_):
        raise OSError(*(5, "Input/output error", *about) if about else ["cannot identify image file 'films/a0.png'"])

    named = "a.csv: Input/output error" if about else "cannot identify image file 'films/a0.png'"
    assert prepare([], report=fail) == (2, f"data_prep: {named}\n")


def test_strict_refuses_problems_and_passes_notes(prepare, make_sample):
    def note(problems):
        problems.notes["empty reports"] += 1

    status, said = prepare([make_sample()], "--strict", report=note)
    assert status == 0 and "note: empty reports: 1" in said
    status, said = prepare([make_sample()], "--strict", report=lambda problems: problems.add("bad_box", "a", "no area"))
    assert status == 1 and "1 problems under --strict" in said


def scaled(boxes, unit):
    return [Box(*(value * unit for value in quad)) for quad in boxes]


def as_width_and_height(boxes, clip):
    for x1, y1, x2, y2 in boxes:
        if clip:
            yield x1, y1, min(x1 + x2, 1.0), min(y1 + y2, 1.0)
        elif x1 + x2 <= 1 and y1 + y2 <= 1:
            yield x1, y1, x1 + x2, y1 + y2


WRONG_UNITS = {
    "shares as pixels": (lambda quads: [[v / 1024 for v in quad] for quad in quads], "smaller than 3 pixels"),
    "percent as pixels": (lambda quads: [[v * 100 / 1024 for v in quad] for quad in quads], "upper left ninth"),
    "thousandths": (lambda quads: [[v * 1000 / 3000 for v in quad] for quad in quads], "upper left ninth"),
    "corners as sides": (lambda quads: list(as_width_and_height(quads, clip=False)), "read as [x, y, width, height]"),
    "and clipped": (lambda quads: list(as_width_and_height(quads, clip=True)), "read as [x, y, width, height]"),
}


@pytest.mark.parametrize("unit", WRONG_UNITS)
def test_boxes_in_a_wrong_unit_are_refused_and_validate_finds_them(prepare, make_sample, tmp_path, capsys, unit):
    change, complaint = WRONG_UNITS[unit]
    sound = [
        make_sample(id=f"s{i}", image=Path(f"/films/{i}.png"), width=1024, height=1024, boxes=(Box(*quad),))
        for i, quad in enumerate(film_boxes())
    ]
    assert prepare(sound)[0] == 0
    assert main(["validate", str(tmp_path / "out"), "--images", "skip"]) == 0
    wrong = [replace(sample, boxes=(Box(*quad),)) for sample, quad in zip(sound, change(film_boxes()), strict=False)]
    capsys.readouterr()
    status, said = prepare(wrong)
    assert status == 1 and complaint in said and "--trust-boxes" in said and "nothing was written" in said
    assert prepare(wrong, "--trust-boxes")[0] == 0
    assert main(["validate", str(tmp_path / "out"), "--images", "skip"]) == 1
    assert complaint in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "out"), "--images", "skip", "--trust-boxes"]) == 0


REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", Path(__file__).parents[3] / "shared/data/real"))


@pytest.mark.skipif(not (REAL / "BBox_List_2017.csv.gz").is_file(), reason="no real data; see CXR_GRPO_REAL_DATA")
def test_real_boxes_pass_as_a_set_and_per_finding():
    by_finding = {"all": BoxUnits()}
    with gzip.open(REAL / "BBox_List_2017.csv.gz", "rt") as file:
        for row in list(csv.reader(file))[1:]:
            x, y, width, height = (float(value) / 1024 for value in row[2:6])
            for finding in ("all", row[1]):
                by_finding.setdefault(finding, BoxUnits()).add([(x, y, x + width, y + height)], 1024, 1024)
    assert by_finding["all"].boxes == 984
    assert {finding: units.complaint() for finding, units in by_finding.items()} == dict.fromkeys(by_finding, "")


def test_a_wrong_box_format_names_the_nearest(capsys, tmp_path):
    assert main(["demo", "--out", str(tmp_path / "x"), "--box-format", "radvml"]) == 2
    assert "radvlm" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_file_in_the_place_of_the_folder(capsys, tmp_path):
    (tmp_path / "x").write_text("")
    assert main(["demo", "--out", str(tmp_path / "x"), "--patients", "1"]) == 2
    assert str(tmp_path / "x") in capsys.readouterr().err


def test_limit_counts_samples(rows, tmp_path):
    assert main(["demo", "--out", str(tmp_path), "--limit", "5", "--shares", "1,0,0"]) == 0
    assert len(rows(tmp_path / "train.parquet")) == 5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_run_leaves_nothing_behind_and_a_killed_one_nothing_that_looks_whole(tmp_path, number, status):
    command = [sys.executable, "-m", "data_prep", "demo", "--patients", "100000", "--out", str(tmp_path)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    try:
        while not list(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(run.pid, number)
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()  # one that does not stop would draw for an hour
    assert run.returncode == status
    assert "Traceback" not in errors
    if number == signal.SIGKILL:
        assert all(path.name.startswith(".unfinished-") for path in tmp_path.iterdir())
        assert main(["demo", "--patients", "3", "--out", str(tmp_path)]) == 0
        assert not list(tmp_path.glob(".*"))
    else:
        assert list(tmp_path.iterdir()) == []
