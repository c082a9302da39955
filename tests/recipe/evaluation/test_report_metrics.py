"""The metrics of reports with tiny checkpoints and a judge's stand-in: means of rewards, and corpus-level counts."""

import itertools
from statistics import fmean

import fake_openai
import pytest

from recipe.cxr_grpo.evaluation.scoring import corpus
from reward_fns.models.chexbert import classify
from reward_fns.models.radgraph import annotate
from reward_fns.rewards.bertscore import bertscore
from reward_fns.rewards.radcliq import radcliq
from reward_fns.rewards.radgraph_f1 import radgraph_f1

judge_server = fake_openai.judge_server
TOP5 = (1, 4, 5, 7, 9)


@pytest.fixture
def answers(perfect):
    """Two patients' reports exchanged, one right, one empty: by number."""
    reports = [row["prediction"] for row in perfect() if row["id"].startswith("r")]
    return {0: reports[1], 1: reports[0], 2: reports[2], 3: ""}, reports


@pytest.fixture
def predictions(jsonl, answers):
    return jsonl([{"id": f"r{number}", "prediction": text} for number, text in answers[0].items()])


def test_all_metrics(prepare, predictions, answers, run, text_models_in_cache):
    done = run("--predictions", predictions, "--data", prepare(), "--model", "m", metrics=None)
    assert done.status == 0, done.err
    results, scores = done.read("m/mine-report/own")
    metrics = results["metrics"]
    assert set(metrics) == {
        "answer_chars", "rouge_l", "bleu", "gleu", "bertscore", "chexbert_micro_14", "chexbert_macro_14",
        "chexbert_micro_5", "chexbert_macro_5", "radgraph_simple", "radgraph_partial", "radgraph_complete",
        "radcliq", "radcliq_inverse",
    }  # fmt: skip
    assert results["higher_is_better"]["radcliq"] is False and results["higher_is_better"]["radcliq_inverse"] is True
    texts, reports = [text for text in answers[0].values() if text], answers[1][:3]
    raw = {"lower_text": False, "max_chars": 0, "min_chars": 0}
    assert metrics["bertscore"] == pytest.approx(sum(bertscore(texts, reports, **raw)) / 4, abs=1e-6)
    for level in ("simple", "partial", "complete"):
        wanted = sum(radgraph_f1(texts, reports, level, **raw)) / 4
        assert metrics[f"radgraph_{level}"] == pytest.approx(wanted, abs=1e-9) and wanted > 0
    for name, text in answers[0].items():  # what the viewer shows
        found = [[entity.tokens, entity.label] for entity in annotate([text], max_chars=0)[0]] if text else []
        assert scores[f"r{name}"]["entities"]["prediction"] == found
    assert scores["r3"]["entities"]["reference"]
    # The empty answer is the failure that the paper's reward gives -3.
    wanted = fmean([*(-value for value in radcliq(texts, reports, clip=False)), 3.0])
    assert metrics["radcliq"] == pytest.approx(wanted, abs=1e-5)
    assert metrics["radcliq_inverse"] == 1 / metrics["radcliq"]
    assert scores["r2"]["metrics"]["radcliq"] < scores["r0"]["metrics"]["radcliq"]
    assert any(name.endswith("chexbert.pth") for name in results["weights"])


def test_chexbert_counts(prepare, predictions, answers, run, text_models_in_cache):
    done = run("--predictions", predictions, "--data", prepare(), "--model", "m", metrics="chexbert")
    results, scores = done.read("m/mine-report/own")
    marks = [[int(label in (1, 3)) for label in findings.classes] for findings in classify(answers[1])]
    assert [row["counts"]["chexbert"]["reference"] for row in scores.values()] == marks
    assert [row["counts"]["chexbert"]["prediction"] for row in scores.values()] == [
        marks[1],
        marks[0],
        marks[2],
        [0] * 14,
    ]
    assert [len(row["labels"]) for row in scores.values()] == [sum(of) for of in marks]
    assert sum(group["samples"] for group in results["groups"]["label"].values()) == sum(map(sum, marks))


def f1(pairs):
    """Counted one by one."""
    true = sum(a and b for a, b in pairs)
    false, missed = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    precision, recall = (true / (true + other) if true + other else 0.0 for other in (false, missed))
    return 2 * precision * recall / (precision + recall) if true else 0.0


def test_corpus_f1_counts_over_all_reports():
    """Among 4096 lists of marks of two reports: precision and recall per label, as scikit-learn has them."""
    rows = []
    for number, marks in enumerate(itertools.product((0, 1), repeat=12)):
        ours, theirs = ([*marks[i::2], *([number % 3 == i] * 7), 0] for i in (0, 1))
        counts = {"prediction": [*map(int, ours)], "reference": [*map(int, theirs)]}
        rows.append({"metrics": {}, "counts": {"chexbert": counts}})
    for part in (rows[:7], rows[100:140], rows):
        sides = [[row["counts"]["chexbert"][side] for row in part] for side in ("prediction", "reference")]
        columns = [[(a[i], b[i]) for a, b in zip(*sides, strict=True)] for i in range(14)]
        found = corpus(part)
        for number, labels in (("14", range(14)), ("5", TOP5)):
            assert found[f"chexbert_macro_{number}"] == pytest.approx(fmean(f1(columns[i]) for i in labels))
            assert found[f"chexbert_micro_{number}"] == pytest.approx(f1([pair for i in labels for pair in columns[i]]))


def test_missing_weights_are_named_with_a_way_out(prepare, predictions, run, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for loaded in ("_lanes", "_readers"):  # by earlier tests
        monkeypatch.setattr(f"reward_fns.engine.lanes.{loaded}", {})
    done = run("--predictions", predictions, "--data", prepare(), "--model", "m", metrics="rouge_l,radgraph,bleu")
    assert done.status == 2
    assert "metric radgraph: cannot get radgraph-xl.tar.gz" in done.err
    assert "To leave it out: --metrics rouge_l,bleu" in done.err and not done.folder.exists()


def test_green_asks_the_judge(prepare, predictions, run, judge_server, monkeypatch):
    judge_server.answer = lambda prompt: (
        "[Explanation]: -\n[Clinically Significant Errors]:\n(a) Wrong: 1. x\n\n"
        "[Clinically Insignificant Errors]:\n(a) Wrong: 0.\n\n[Matched Findings]:\n3. y; z; w"
    )
    monkeypatch.setenv("CXR_GRPO_JUDGE_URL", judge_server.url)
    done = run("--predictions", predictions, "--data", prepare(), "--model", "m", metrics="green")
    assert done.status == 0, done.err
    results, scores = done.read("m/mine-report/own")
    assert [row["metrics"]["green"] for row in scores.values()] == [0.75, 0.75, 0.75, 0.0]
    assert results["metrics"]["green"] == 0.5625


def test_a_dead_judge_is_no_score(prepare, predictions, run, monkeypatch):
    monkeypatch.setattr("reward_fns.settings.FailureRules.pause", lambda self, retry: 0.0)
    monkeypatch.setenv("CXR_GRPO_JUDGE_URL", "http://127.0.0.1:9/v1")
    done = run("--predictions", predictions, "--data", prepare(), "--model", "m", metrics="green")
    assert done.status == 2 and "metric green: reward 'green' failed on sample 'r0'" in done.err
    assert not done.folder.exists()
