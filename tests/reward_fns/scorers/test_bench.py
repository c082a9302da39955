import json
import random

import pytest

from reward_fns.errors import UsageError
from reward_fns.scorers import workload


def test_work_is_that_of_a_grpo_run():
    texts = workload.invented(30, random.Random(1))
    work = workload.make(texts, prompts=20, rollouts=8, epochs=3, duplicates=0.5, seed=1)
    assert len(work.pairs) == 480
    assert {reference for _, reference in work.pairs} <= set(texts)
    references = [work.pairs[i][1] for i in range(0, 480, 8)]
    assert references[:20] == references[20:40] and len(set(references[:20])) == 20
    copies = sum(8 - len({text for text, _ in work.pairs[i : i + 8]}) for i in range(0, 480, 8))
    assert 0.3 < copies / 420 < 0.7  # of the rollouts that may be copies
    assert work == workload.make(texts, prompts=20, rollouts=8, epochs=3, duplicates=0.5, seed=1)


def test_files_of_reports(tmp_path):
    path = tmp_path / "reports"
    truth = {"report": "Fourth."}
    rows = [{"report": "Second."}, {"ground_truth": {"report": "Third."}}, {"ground_truth": json.dumps(truth)}]
    path.write_text("First.\n\n" + "\n".join(map(json.dumps, rows)))
    assert workload.texts_of(path) == ["First.", "Second.", "Third.", "Fourth."]
    for content, message in [("", "has no text"), ('{"a": 1}', "line 1: no report"), ('{"report": 1}', "must be a")]:
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            workload.texts_of(path)
    with pytest.raises(UsageError, match="cannot read"):
        workload.texts_of(tmp_path / "nowhere")


def test_benchmark_of_small_models(command):
    pytest.importorskip("transformers")
    done = command(
        "bench", "--prompts", 3, "--rollouts", 4, "--epochs", 2, "--layers", 1, "--width", 64,
        "--engine", "dtype=float32", "--engine", "dtype=bfloat16", "cache_mb=64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "24 rollouts: 3 prompts x 4 x 2 epochs" in done.stdout
    assert "radcliq, engine as it is by default" in done.stdout
    assert "radcliq, engine dtype=bfloat16 cache_mb=64" in done.stdout
    for what in ("rollouts/s", "tokenise", "encode", "decode", "match", "in the cache", "padding", "memory"):
        assert done.stdout.count(what) == 2, what
    assert done.stdout.count("of the rewards moved by more than 0.0001") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "dtpye=bfloat16"], "did you mean 'dtype'"),
        (["--engine", "dtype"], "name=value"),
        (["--engine", "where=http"], "needs the address"),
        (["--rewards", "gleu"], "unknown neural reward 'gleu'"),
        (["--baseline", "library"], "needs --python"),
        (["--prompts", "0"], "invalid count value"),
        (["--duplicates", "1"], "invalid share value"),
    ],
)
def test_wrong_use(capsys, arguments, message):
    from reward_fns.cli import main

    try:
        status = main(["bench", *arguments])
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2 and message in capsys.readouterr().err
