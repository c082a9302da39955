"""Results folders as `evaluate` writes them, with made-up answers: for tests and benchmarks of tables and plots."""

import hashlib
import json
from statistics import fmean

import numpy as np

from recipe.cxr_grpo.results.average_precision import coco

FIVE = (1, 4, 5, 7, 9)  # Cardiomegaly, Edema, Consolidation, Atelectasis, Pleural Effusion
LOWER = {"radcliq"}
SCORES = ("rouge_l", "bertscore", "radgraph_complete", "green", "bleu")


def report_rows(count, quality, seed=0, films="own", patients=None, extra=()):
    """Rows of scores.jsonl: the same questions for every quality, 0 (guesses) to 1; about 1.6 films a patient."""
    asked, rng = np.random.default_rng(1), np.random.default_rng([seed, int(quality * 1000)])
    rows = []
    for number, patient in enumerate(asked.integers(patients or max(1, int(count / 1.6)), size=count)):
        reference = asked.random(14) < 0.2
        hardness, noise = asked.normal(0, 0.05), rng.normal(0, 0.08, 5)
        prediction = np.where(rng.random(14) < 0.3 + 0.7 * quality, reference, rng.random(14) < 0.2)
        values = np.clip(0.1 + 0.3 * quality + hardness + noise, 0, 1)
        metrics = dict(zip(SCORES, values.tolist(), strict=True))
        metrics |= {"radcliq": float(2 - quality - 2 * hardness + noise[0]), "answer_chars": float(150 + number % 60)}
        rows.append(
            {
                "id": f"r{number:05}", "patient_id": f"p{patient}", "data_source": "mimic_cxr/report", "task": "report",
                "films": films, "labels": [], "question": "Describe the film.", "prediction": f"Report {number}.",
                "answer": f"Report {number}.", "thinking": "", "reference": f"Reference {number}.", "image": None,
                "status": "ok", "metrics": metrics,
                "counts": {"chexbert": {"prediction": prediction.astype(int).tolist(),
                                        "reference": reference.astype(int).tolist()}},
            }
        )  # fmt: skip
    return rows


def grounding_rows(count, quality, seed=0, films="own"):
    """As `report_rows`, for boxes of three findings; the accuracy for one box applies to half of the samples."""
    asked, rng = np.random.default_rng(2), np.random.default_rng([seed, int(quality * 1000)])
    rows = []
    for number in range(count):
        iou = float(np.clip(quality * 0.8 + asked.normal(0, 0.1) + rng.normal(0, 0.2), 0.01, 1))
        boxes = [[0.1, 0.1, 0.5, 0.1 + 0.5 * iou]] + [[0.5, 0.5, 0.5 + 0.5 * iou, 0.9]] * (rng.random() < quality)
        true = [[0.1, 0.1, 0.5, 0.6], [0.5, 0.5, 1.0, 0.9]][: 1 + number % 2]
        metrics = {"ap50_paper": float(iou >= 0.5), "mean_iou": iou, "f1_50": float(iou >= 0.5)}
        metrics |= {"acc_50": float(iou >= 0.5) if len(true) == 1 else None}
        rows.append(
            {
                "id": f"g{number:05}", "patient_id": f"p{number // 2}", "data_source": "demo/grounding",
                "task": "grounding", "films": films, "labels": [("opacity", "nodule", "effusion")[number % 3]],
                "n_boxes": len(true), "question": "", "prediction": str(boxes), "answer": "", "thinking": "",
                "reference": None, "image": None, "status": "ok", "metrics": metrics,
                "counts": {"invalid_boxes": number % 3 // 2}, "boxes": {"prediction": boxes, "reference": true},
            }
        )  # fmt: skip
    return rows


def f1(pairs, labels, average):
    """F1 of label vectors, (prediction, reference) each, counted one by one."""
    scores, sums = [], [0, 0]
    for label in labels:
        hits = sum(p[label] and r[label] for p, r in pairs)
        positives = sum(p[label] + r[label] for p, r in pairs)
        scores.append(2 * hits / positives if positives else 0.0)
        sums = [sums[0] + hits, sums[1] + positives]
    return fmean(scores) if average == "macro" else (2 * sums[0] / sums[1] if sums[1] else 0.0)


def corpus(rows):
    """What results.json states: means, and of the whole set F1 and COCO's AP by pycocotools itself."""
    found = {}
    for name in rows[0]["metrics"]:
        values = [row["metrics"][name] for row in rows if row["metrics"][name] is not None]
        found[name] = fmean(values) if values else None
    if "radcliq" in found:
        found["radcliq_inverse"] = 1 / found["radcliq"]
    counts = [row["counts"]["chexbert"] for row in rows if "chexbert" in row["counts"]]
    pairs = [[of[side] for side in ("prediction", "reference")] for of in counts]
    if pairs:
        for average in ("micro", "macro"):
            for size, labels in ((14, range(14)), (5, FIVE)):
                found[f"chexbert_{average}_{size}"] = f1(pairs, labels, average)
    return found | (coco(rows)[0] if "boxes" in rows[0] else {})


def write_results(root, model, data_set, rows, seed=None, **stated):
    """Write one results folder below `root`; returns it. `stated` replaces entries of results.json."""
    task, films = rows[0]["task"], rows[0]["films"]
    name = f"{data_set}-{task}" + ("" if seed is None else f"-seed{seed}")
    folder = root / model.replace("/", "_") / name / films
    folder.mkdir(parents=True)
    predictions = [
        {key: row[key] for key in ("id", "prediction", "films")} for row in rows if row["status"] != "missing"
    ]
    texts = {"predictions": predictions, "scores": rows}
    hashes = {"data": hashlib.sha256(data_set.encode()).hexdigest()}
    for part, lines in texts.items():
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (folder / f"{part}.jsonl").write_bytes(text)
        hashes[part] = hashlib.sha256(text).hexdigest()
    metrics = corpus(rows)
    counts = {status: sum(row["status"] == status for row in rows) for status in ("failed", "missing")}
    facts = {
        "model": model, "data_set": data_set, "task": task, "films": films, "seed": seed, "thinking": False,
        "decoding": None, "samples": len(rows), **counts, "metrics": metrics,
        "higher_is_better": {metric: None if metric == "answer_chars" else metric not in LOWER for metric in metrics},
        "hashes": hashes, "weights": {}, "command": "made up", "versions": {},
    } | stated  # fmt: skip
    (folder / "results.json").write_text(json.dumps(facts))
    return folder
