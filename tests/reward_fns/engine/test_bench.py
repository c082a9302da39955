import json
import random
import re

import pytest

from reward_fns.benchmark import workload
from reward_fns.commands.cli import main
from reward_fns.engine import lanes as engine
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
    assert main(["bench", *size, *engines]) == 0
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
    assert main(["bench", *size, "--engine", "where=inline", "--engine", "where=ray", "threads=1"]) == 0
    alone, shared = capsys.readouterr().out.split("radcliq, engine ")[1:]
    assert "2 workers of" in alone and "a replica" not in alone
    assert "2 workers of" in shared and "a replica of" in shared
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
        status = main(["bench", *arguments])
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2 and message in capsys.readouterr().err


@pytest.fixture
def spec(text_models, tmp_path):
    """Path of a spec of two neural rewards and another, with a cache on disk."""
    models = {"repo": str(text_models.scorers)}
    rewards = [
        {"name": "radgraph_f1", "options": models | {"encoder": str(text_models.bert)}},
        {"name": "chexbert_cosine", "options": models | {"base": str(text_models.bert)}},
        {"name": "gleu"},
    ]
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"report": rewards, "engine": {"cache_dir": str(tmp_path / "cache")}}))
    return path


@pytest.fixture
def rows(tmp_path):
    texts = ["The heart is enlarged.", "Small left effusion. No edema.", "Lungs are clear.", "The heart is enlarged."]
    path = tmp_path / "rows.jsonl"
    pairs = zip(texts, texts[1:] + texts[:1], strict=True)
    path.write_text("".join(
        json.dumps({"task": "report", "prediction": a, "ground_truth": {"report": b}}) + "\n" for a, b in pairs
    ))  # fmt: skip
    return path


def test_what_a_precision_changes_is_measured(capsys, spec, rows):
    assert main(["precision", "--spec", str(spec), "--file", str(rows), "--engine", "dtype=float32"]) == 0
    same = capsys.readouterr().out
    assert same.count("of 4 values moved 0.00% by > 0.0001") == 2 and "gleu" not in same
    assert main(["precision", "--spec", str(spec), "--file", str(rows), "--engine", "dtype=bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (labels,) = (line for line in lines if line.startswith("CheXbert, labels changed"))
    assert " of 42 " in labels  # 14 of each of 3 different texts
    (texts,) = (line for line in lines if line.startswith("RadGraph, texts with any change"))
    assert " of 3 " in texts
    (cosine,) = (line for line in lines if line.startswith("chexbert_cosine"))
    assert "at most 0\n" not in cosine + "\n"  # something does change


def test_rows_that_cannot_be_compared_are_named(capsys, spec, rows):
    rows.write_text(rows.read_text() + "{}\n")
    assert main(["precision", "--spec", str(spec), "--file", str(rows), "--engine", "dtype=float32"]) == 1
    assert "line 5: not a row to score" in capsys.readouterr().err
    assert main(["precision", "--rewards", "gleu", "--file", str(rows), "--engine", "dtype=float32"]) == 2
    assert "none of these rewards has a model" in capsys.readouterr().err


def test_the_references_of_a_data_set_are_read_ahead(capsys, spec, rows, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    engine._lanes.clear()
    truths = [json.dumps(json.loads(line)["ground_truth"]) for line in rows.read_text().splitlines()]
    table = pa.table(
        {"reward_model": [{"style": "rule", "ground_truth": truth} for truth in [*truths, '{"boxes": []}']]}
    )
    pq.write_table(table, tmp_path / "train.parquet")
    assert main(["fill", "--spec", str(spec), "--file", str(tmp_path / "train.parquet")]) == 0
    assert "3 references, 0 of which could not be read" in capsys.readouterr().out
    engine._lanes.clear()  # as in another process
    assert main(["score", "--spec", str(spec), "--file", str(rows)]) == 0
    mine = [lane for (_, options), lane in engine.lanes().items() if options.cache_dir]
    assert [lane.counts["read"] for lane in mine] == [0, 0] and all(lane.counts["disk"] == 3 for lane in mine)
    for name in ("nowhere.parquet", "spec.yaml"):
        assert main(["fill", "--spec", str(spec), "--file", str(tmp_path / name)]) == 2
    capsys.readouterr()
    plain = tmp_path / "plain.yaml"
    plain.write_text('{"report": [{"name": "gleu"}]}')
    assert main(["fill", "--spec", str(plain), "--file", str(rows)]) == 2
    assert "needs engine: {cache_dir: FOLDER}" in capsys.readouterr().err
