"""The demo's films, and the supervised training that makes its model: one that looks at the film before GRPO.

The model's patients are drawn with seeds of their own, so no run of the quickstart has met them. Their boxes are loose
and their reports in many readers' words, as in sets put together from several hospitals; GRPO is then rewarded on tight
boxes and one house style.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.results.films import film_dependence
from recipe.cxr_grpo.results.metrics import read_metrics
from recipe.cxr_grpo.results.validation import OWN
from recipe.cxr_grpo.running.evaluation import evaluate
from recipe.cxr_grpo.running.training import RunFailed, run_training
from reward_fns.errors import UsageError

MODEL = Path(__file__).parent / "model"
"""The demo model that comes with the package: what `pretrain` made with seed 0."""
STEPS, PATIENTS = 1200, 8000
FIRST_SEED = 1_000_000_000  # of the patients that a model is trained on; smaller ones are the quickstart's
HELD_OUT = 350  # patients, for the figures of the model card
HOUSE = ("--house-style", "1")
_READERS = ("--house-style", "0.1", "--loose-boxes", "0.12")
_CURVE_STEPS = 50  # the curve has the mean loss over this many steps


def draw_films(out: Path, seed: int, patients: int, *options: str) -> None:
    """Prepare the demo data set in ``out``; UsageError or RunFailed, after data_prep's own message, if that fails."""
    from data_prep.cli import main as data_prep

    chosen = ["--seed", str(seed), "--patients", str(patients), "--max-pixels", str(architecture.IMAGE_SIDE**2)]
    if status := data_prep(["demo", "--out", str(out), *chosen, *options]):
        raise (UsageError if status == 2 else RunFailed)("the demo data could not be made, see above")


def pretrain(
    out: Path,
    *,
    seed: int,
    steps: int,
    patients: int,
    size: Mapping[str, int] = MappingProxyType({}),
    watch: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Make a demo model in ``out``, with its card; what it was made from is in ``out-training``.

    ``size`` has arguments of `architecture.write_random`. ``watch`` is called while the model trains, with the folder
    of the log and the metrics. The same call resumes an interrupted training. Raises RunFailed, UsageError.
    """
    work = out.with_name(f"{out.name}-training")
    work.mkdir(parents=True, exist_ok=True)
    settings, noted = {"seed": seed, "steps": steps, "patients": patients}, work / "settings.json"
    if noted.exists() and json.loads(noted.read_text()) != {**settings, **size}:
        raise UsageError(f"{work} is of another training, see {noted}; choose another folder, or delete this one")
    noted.write_text(json.dumps({**settings, **size}))
    first = FIRST_SEED + 2 * seed
    for folder, number, options in (
        ("train", patients, (*_READERS, "--shares", "1,0,0")),
        ("held_out", HELD_OUT, (*HOUSE, "--shares", "0,1,0")),
    ):
        if not any((work / folder).glob("*.parquet")):
            draw_films(work / folder, first + (folder == "held_out"), number, *options)
    start = work / "start"
    if not (start / "config.json").is_file():
        architecture.write_random(start, seed, **size)
    chosen: dict[str, Any] = {
        "data.train_files": work / "train" / "sft_train.parquet",
        "model.path": start,
        "trainer.default_local_dir": work / "checkpoints",
        "trainer.total_training_steps": steps,
        "trainer.save_freq": max(steps // 4, 1),
    }
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    run_training("sft", "quickstart_sft", overrides, out=work, watch=lambda: watch(work))
    architecture.write_bfloat16(work / "checkpoints" / f"global_step_{steps}" / "huggingface", out)
    rows = evaluate(out, [work / "held_out" / "val.parquet"], work / "evaluation")
    figures = film_dependence(rows[OWN], rows["swapped"])
    write_card(out, settings, loss_curve(work), figures)


def loss_curve(folder: Path) -> dict[int, float]:
    """Step -> mean training loss over the 50 steps up to it, from the metrics of an SFT run."""
    losses = {step: row["train/loss"] for step, row in read_metrics(folder, "sft").items() if "train/loss" in row}
    curve: dict[int, list[float]] = {}
    for step, loss in losses.items():
        curve.setdefault(-(-step // _CURVE_STEPS) * _CURVE_STEPS, []).append(loss)
    return {min(step, max(losses)): fmean(of) for step, of in curve.items()}


def write_card(out: Path, settings: Mapping[str, int], curve: Mapping[int, float], figures: Mapping[str, Any]) -> None:
    """Write the model card ``README.md`` and its numbers, ``card.json``, beside the weights."""
    from jinja2 import Environment

    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    facts = {"settings": settings, "loss": curve, "films": figures, "sha256": digest}
    (out / "card.json").write_text(json.dumps(facts, indent=1) + "\n")
    template = resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    page = Environment(keep_trailing_newline=True, trim_blocks=True).from_string(template)
    (out / "README.md").write_text(page.render(**facts, readers=" ".join(_READERS)))
