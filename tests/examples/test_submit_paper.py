"""examples/slurm/submit_paper.sh: the jobs that it submits, with a stand-in for sbatch."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm"


def rows(path):
    """The lines of a table, by their first word."""
    lines = [line.split() for line in path.read_text().splitlines() if line[0] != "#"]
    return {name: rest for name, *rest in lines}


JOBS = rows(SLURM / "jobs.tsv")
RUNS = rows(ROOT / "examples" / "paper" / "runs.tsv")


def test_every_run_of_the_paper_has_a_job_after_the_one_that_it_starts_from():
    jobs = JOBS
    assert [*jobs][: 1 + len(RUNS)] == ["smoke", *RUNS]
    for name, (_, start, data, *settings) in RUNS.items():
        after, _, serves, script, *arguments = jobs[name]
        assert after == {"instruct": "smoke", "thinking": "smoke"}.get(start, start)
        assert (script, arguments) == ("train.sbatch", [name])
        neural = data != "grounding" and "report" in data and not any("gleu" in word for word in settings)
        assert serves.startswith("scorers") is neural and serves.endswith("judge") is (name == "unirg_stage2")


def test_every_trained_model_of_the_paper_answers_what_it_was_trained_for_and_has_its_row():
    from recipe.cxr_grpo.evaluation.models import models
    from recipe.cxr_grpo.results.tables import PAPER

    printed = {title for of in PAPER["tables"].values() for title in of["rows"]}
    seen = set()
    for name, (after, _, _, script, *arguments) in [*JOBS.items()][1 + len(RUNS) : -1]:
        run, model, title, data = arguments
        assert name.startswith("answers_") and script == "evaluate.sbatch"
        assert after == (run if run in RUNS else "smoke") and title in printed
        assert (models()[model].hub is None) is (run in RUNS)
        assert run in ("-", "sft") or data == RUNS[run][2]
        seen.add((title, data.partition("_")[0]))
    ours = {title for title in printed if title.startswith(("Qwen3-VL", "RadVLM"))}
    assert {title for title, _ in seen} == ours
    assert {title for title, task in seen if task == "grounding"} == {*PAPER["tables"]["grounding"]["rows"]} & ours
    assert [*JOBS][-1] == "tables" and JOBS["tables"][0] == "answers_*"


def test_a_dry_run_shows_all_jobs_and_needs_nothing(submit):
    done, calls = submit("--dry-run", DATA="data", PROFILE="paper_32xgh200", VENV="/nowhere", PATH="/usr/bin:/bin")
    assert done.returncode == 0 and calls == [], done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(JOBS)
    _, line = lines[lines.index("# unirg_stage2: 10 nodes, 40 GPUs, 12 h, with scorers, with a judge") :][:2]
    words = shlex.split(line)
    assert {"SCORERS=yes", "--nodes=10", "--gpus-per-node=4", "--time=12:00:00", "--exclusive"} <= {*words}
    assert "--dependency=afterok:ID_OF_unirg_stage1" in words and words[-2:] == [
        "examples/slurm/train.sbatch",
        "unirg_stage2",
    ]
    assert "# sft: 8 nodes, 32 GPUs, 12 h" in lines


def test_a_job_is_submitted_after_those_that_it_needs(submit, place):
    done, calls = submit("radvlm_report", "--", "--account=me", PROFILE="gpu_24g", MODEL=place / "model")
    assert done.returncode == 0, done.stderr
    smoke, sft, report = calls
    assert smoke.startswith(f"RUNS={place}/runs/smoke SCORERS=yes") and "trainer.total_training_steps=2" in smoke
    assert "--dependency=afterok:1 --kill-on-invalid-dep=yes --account=me examples/slurm/train.sbatch sft" in sft
    assert "--dependency=afterok:2 " in report and f"RUNS={place}/runs " in report
    assert (place / "runs" / "radvlm_report" / "slurm_job").read_text() == "3\n"


def test_what_is_complete_or_queued_is_not_submitted_again(submit, place):
    for run, file in {"smoke/qwen3vl_report": "finished", "sft": "slurm_job"}.items():
        (place / "runs" / run).mkdir(parents=True)
        (place / "runs" / run / file).write_text("41")
    done, calls = submit("radvlm_report", PROFILE="gpu_24g", MODEL=place / "model", QUEUE="41")
    assert done.stdout.splitlines()[:2] == ["# smoke: complete", "# sft: job 41, already in the queue"]
    (report,) = calls
    assert "--dependency=afterok:41 " in report
    _, calls = submit("sft", PROFILE="gpu_24g", MODEL=place / "model")
    assert len(calls) == 2 and calls[-1].endswith("train.sbatch sft")  # that job failed


def test_no_job_is_submitted_twice_while_slurm_gives_no_answer(submit, place):
    (place / "runs" / "sft").mkdir(parents=True)
    (place / "runs" / "sft" / "slurm_job").write_text("41")
    (place / "bin" / "sleep").symlink_to("/bin/true")
    settings = {"PROFILE": "gpu_24g", "MODEL": place / "model", "QUEUE": "41"}
    done, calls = submit("sft", **settings, AWAY="Socket timed out on send/recv operation")
    assert done.returncode == 2 and "Socket timed out" in done.stderr and calls == []
    done, _ = submit("sft", **settings, DEAF="%i")
    assert (place / "calls.deaf").exists() and "# sft: job 41, already in the queue" in done.stdout
    (place / "runs" / "smoke" / "qwen3vl_report" / "slurm_job").unlink()
    done, calls = submit("sft", **settings, AWAY="Invalid job id specified")
    assert done.returncode == 0 and len(calls) == 3


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["radvlm"], {}, "no job radvlm in .*; there are smoke sft"),
        (["--nodes=3"], {}, "unknown option --nodes=3; options of sbatch come after --"),
        ([], {"DATA": ""}, "DATA is not set"),
        ([], {"PROFILE": "gpu"}, "no PROFILE=gpu"),
        (["sft"], {"VENV": "/nowhere"}, "no virtual environment /nowhere"),
        (["cold_start"], {}, "no folder .*/data/cold_start, which job cold_start reads"),
        (["unirg_stage2"], {}, "JUDGE is not set: job unirg_stage2 asks a judge; set JUDGE=Qwen/Qwen3-8B"),
        (["sft"], {"PATH": "/usr/bin:/bin"}, "no sbatch on "),
    ],
)
def test_nothing_is_submitted_while_something_is_missing(submit, place, arguments, env, message):
    if message.startswith("no sbatch") and Path("/usr/bin/sbatch").exists():
        pytest.skip("there is a Slurm here")
    done, calls = submit(*arguments, **env)
    assert done.returncode == 2 and calls == []
    assert re.search(f"submit_paper.sh: {message}", done.stderr), done.stderr
