"""A results folder: predictions, scores and results of one model, data set, task and films."""

import hashlib
import json
import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from data_prep.writer.staging import staged
from recipe.cxr_grpo.evaluation.judges import judges
from recipe.cxr_grpo.evaluation.predictions import Pairs
from recipe.cxr_grpo.evaluation.scoring import METRICS, Scored, corpus, groups
from reward_fns.models.weights import loaded

_PACKAGES = ("cxr-grpo", "numpy", "pycocotools", "sacrebleu", "torch", "transformers")


def write(
    out: Path,
    model: str,
    seed: int | None,
    pairs: Pairs,
    rows: list[Scored],
    command: str,
    decoding: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``out/MODEL/SET-TASK[-seedK]/FILMS``, all at once and the same bytes for the same inputs.

    Returns what is in its results.json; ``decoding`` is what is known of how the answers were made.
    """
    sample, metrics = pairs[0][0], corpus(rows)
    stored, given = [sample.truth.stored for sample, _ in pairs], [row for _, row in pairs if row]
    parts: dict[str, Any] = {"data": stored, "predictions": given, "scores": rows}
    texts = {key: "".join(json.dumps(row, allow_nan=False) + "\n" for row in of) for key, of in parts.items()}
    results = {"model": model} | {key: getattr(sample, key) for key in ("data_set", "task", "films", "thinking")}
    results |= {"seed": seed, "decoding": decoding, "samples": len(rows)}
    results |= {status: sum(row["status"] == status for row in rows) for status in ("failed", "missing")}
    better = {key: None if key in METRICS["neither"] else key not in METRICS["lower"] for key in metrics}
    results |= {"metrics": metrics, "higher_is_better": better, "groups": groups(rows), "weights": loaded()}
    results["judges"] = judges(metrics)
    results["hashes"] = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}
    versions = {found.name: found.version for found in distributions() if found.name in _PACKAGES}
    results |= {"command": command, "versions": {"python": platform.python_version(), **versions}}
    files = {f"{key}.jsonl": texts[key] for key in ("predictions", "scores")}
    files["results.json"] = json.dumps(results, indent=1, allow_nan=False, sort_keys=True) + "\n"
    name = f"{sample.data_set}-{sample.task}" + ("" if seed is None else f"-seed{seed}")
    target = out / model / name / sample.films
    with staged(target, lambda old: filter(Path.exists, map(old.joinpath, files)), private=True) as part:
        for file, text in files.items():
            (part / file).write_text(text)
    return results
