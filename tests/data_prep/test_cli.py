import os
import signal
import subprocess
import sys
import time

import pytest

from data_prep.cli import main


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
