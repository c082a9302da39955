import json
import random
import re

import pytest
from bench.bench_scorers import main
from bench.scorers import workload

from reward_fns.errors import UsageError


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


def test_benchmark_of_small_models(capsys):
    pytest.importorskip("transformers")
    size = ["--prompts", "2", "--rollouts", "3", "--epochs", "2", "--layers", "1", "--width", "64"]
    engines = ["--engine", "dtype=float32", "--engine", "dtype=bfloat16", "cache_mb=64"]
    assert main([*size, *engines]) == 0
    printed = capsys.readouterr().out
    assert "12 rollouts: 2 prompts x 3 x 2 epochs" in printed
    assert "radcliq, engine as it is by default" in printed
    assert "radcliq, engine dtype=bfloat16 cache_mb=64" in printed
    for what in ("rollouts/s", "tokenise", "encode", "decode", "match", "in the cache", "padding", "memory"):
        assert printed.count(what) == 2, what
    assert printed.count("of the rewards moved by more than 0.0001") == 1


@pytest.mark.e2e
def test_benchmark_of_workers_that_share_a_deployment(capsys):
    pytest.importorskip("ray.serve", exc_type=ImportError)
    size = ["--prompts", "2", "--rollouts", "3", "--layers", "1", "--width", "64", "--workers", "2"]
    assert main([*size, "--engine", "where=inline", "--engine", "where=ray", "threads=1"]) == 0
    alone, shared = capsys.readouterr().out.split("radcliq, engine ")[1:]
    assert "2 workers of" in alone and "replicas" not in alone
    assert "2 workers of" in shared and "replicas of" in shared
    assert "0.0% of the rewards moved" in shared
    asked = [int(re.search(r"(\d+) texts asked for", text)[1]) for text in (alone, shared)]
    assert asked[0] == 6 * 6 <= asked[1]  # six texts for each rollout; a replica remembers what loaded its models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "dtpye=bfloat16"], "did you mean 'dtype'"),
        (["--engine", "dtype"], "name=value"),
        (["--engine", "where=http"], "needs the address"),
        (["--rewards", "gleu"], "unknown neural reward 'gleu'"),
        (["--baseline", "library"], "needs --python"),
        (["--prompts", "0"], "invalid count value"),
        (["--workers", "-1"], "invalid natural value"),
        (["--duplicates", "1"], "invalid share value"),
    ],
)
def test_wrong_use(capsys, arguments, message):
    try:
        status = main([*arguments])
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2 and message in capsys.readouterr().err
