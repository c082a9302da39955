"""A results folder: predictions, scores and results of one model, data set, task and films."""

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from data_prep.writer.staging import staged
from recipe.cxr_grpo.evaluation.predictions import Pairs
from recipe.cxr_grpo.evaluation.scoring import METRICS, Scored, corpus, groups
from reward_fns.models.weights import loaded

_PACKAGES = ("cxr-grpo", "numpy", "pycocotools", "sacrebleu", "torch", "transformers")


def write(out: Path, model: str, seed: int | None, pairs: Pairs, rows: list[Scored], command: str) -> dict[str, Any]:
    """Write ``out/MODEL/SET-TASK[-seedK]/FILMS`` all at once; returns what is in its results.json.

    The same inputs give the same bytes.
    """
    sample, metrics = pairs[0][0], corpus(rows)
    name = f"{sample.data_set}-{sample.task}" + ("" if seed is None else f"-seed{seed}")
    files = {
        "data": _lines(sample.truth.stored for sample, _ in pairs),
        "predictions": _lines(given for _, given in pairs if given),
        "scores": _lines(rows),
    }
    results = {
        "model": model, "data_set": sample.data_set, "task": sample.task, "films": sample.films, "seed": seed,
        "thinking": sample.thinking, "decoding": None, "samples": len(rows),
        **{status: sum(row["status"] == status for row in rows) for status in ("failed", "missing")},
        "metrics": metrics, "groups": groups(rows),
        "higher_is_better": {n: None if n in METRICS["neither"] else n not in METRICS["lower"] for n in metrics},
        "hashes": {key: hashlib.sha256(text.encode()).hexdigest() for key, text in files.items()},
        "weights": loaded(), "command": command,
        "versions": dict(sorted({d.name: d.version for d in distributions() if d.name in _PACKAGES}.items()))
        | {"python": platform.python_version()},
    }  # fmt: skip
    files = {f"{key}.jsonl": files[key] for key in ("predictions", "scores")}
    files["results.json"] = json.dumps(results, indent=1, allow_nan=False) + "\n"
    with staged(
        out / model / name / sample.films, lambda old: filter(Path.exists, map(old.joinpath, files)), private=True
    ) as part:
        for file, text in files.items():
            (part / file).write_text(text)
    return results


def _lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
