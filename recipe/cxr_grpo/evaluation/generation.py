"""A model's answers to prepared questions: many at once, in shards, resumed from journals.

What the model sees is what it sees in training: verl's RLHFDataset and image reader, the model's chat template, vLLM.
Each answer is appended to the journal of its shard, so that a killed run loses only those under way. The shard that
finds all questions answered writes predictions.jsonl, in the data's order.
"""

import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data_prep.sample import stable_hash
from recipe.cxr_grpo import cpu
from recipe.cxr_grpo.evaluation.models import THINK_END, Model
from recipe.cxr_grpo.results import films
from recipe.cxr_grpo.results.validation import OWN
from recipe.cxr_grpo.running import locks
from recipe.cxr_grpo.running.prompts import load_model, prompt_of
from reward_fns.errors import UsageError

PREDICTIONS, SETTINGS = "predictions.jsonl", "generation.json"
MAX_PROMPT, MAX_TOKENS, MAX_THINKING = 4096, 1024, 4096  # the paper's; the latter two of an answer
TRIES = 64  # the paper's, for an answer whose reasoning does not end
_IN_FLIGHT = 256  # answers that are under way at a time
_BAD_INPUT = (OSError, ValueError, TypeError, AssertionError)  # of a film or prompt; an engine that died raises others
_Key = tuple[str, str]  # films and id
_Row = dict[str, Any]  # of predictions.jsonl


class Question(NamedTuple):
    """One row of the data; `prompt` builds what vLLM takes, and raises one of `_BAD_INPUT` where it can't."""

    key: _Key
    thinking: bool
    prompt: Callable[[], dict[str, Any]]


class Vllm:
    """vLLM with a model's weights; `options` are arguments of vllm.LLM."""

    def __init__(self, weights: str, options: Mapping[str, Any]) -> None:
        import torch
        from transformers import AutoConfig

        if not (cpu.enabled() or torch.cuda.is_available()):
            raise UsageError("no GPU is visible; set VERL_PLATFORM=cpu to answer on the CPU")
        from vllm import LLM

        longest = AutoConfig.from_pretrained(weights).get_text_config().max_position_embeddings
        self._engine = LLM(weights, **{"max_model_len": min(MAX_PROMPT + MAX_THINKING, longest), **options}).llm_engine

    def ask(self, name: str, prompt: dict[str, Any], **sampling: Any) -> None:
        """Begin an answer under this name; one of `_BAD_INPUT` for what can't be asked."""
        from vllm import SamplingParams

        self._engine.add_request(name, prompt, SamplingParams(**sampling))  # type: ignore[arg-type]

    def step(self) -> list[tuple[str, str, str]]:
        """Name, text and finish reason of each answer that ended meanwhile."""
        ended: list[Any] = [output for output in self._engine.step() if output.finished]
        return [(out.request_id, out.outputs[0].text, str(out.outputs[0].finish_reason)) for out in ended]


def prepare(out: Path, data: Sequence[Path], arms: Sequence[str], settings: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The files of each films arm; the first shard that comes here writes those of controls, and generation.json.

    UsageError: the folder was made with other data, arms or settings.
    """
    hashes = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in data}
    settings = {**settings, "films": [*arms], "tries": TRIES, "data": hashes}
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (out / SETTINGS).exists():
            films.write_controls(data, out / "films", [arm for arm in arms if arm != OWN], settings["seed"])
            _replace(out / SETTINGS, json.dumps(settings, indent=1) + "\n")
        before = json.loads((out / SETTINGS).read_text())
    if changed := [key for key in settings if settings[key] != before.get(key)]:
        raise UsageError(f"{out} was made with another {', '.join(changed)}: choose another --out, or delete it")
    return {
        arm: [path if arm == OWN else out / "films" / f"{path.stem}-{arm}.parquet" for path in data] for arm in arms
    }


def read_questions(model: Model, weights: str, arms: Mapping[str, Sequence[Path]]) -> list[Question]:
    """The questions of the files of each films arm; UsageError for what the model does not do, and for equal ids."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    tools = load_model(weights)
    config = OmegaConf.create({"filter_overlong_prompts": False, "max_prompt_length": MAX_PROMPT})
    found: dict[_Key, Question] = {}
    for arm, path in ((arm, path) for arm, paths in arms.items() for path in paths):
        with contextlib.redirect_stdout(io.StringIO()):
            data: Any = RLHFDataset([str(path)], tools[0], config, tools[1])
        for number, info in enumerate(data.dataframe["extra_info"]):
            model.check(info)
            if (key := (arm, info["id"])) in found:
                raise UsageError(f"{path}: the id {info['id']!r} was there before; give files whose ids differ")
            found[key] = Question(key, info["thinking"], partial(_prompt, model, data, number, *tools))
    return [*found.values()]


def _prompt(model: Model, data: Any, number: int, tokenizer: Any, processor: Any) -> dict[str, Any]:
    row = data[number]
    content = row["raw_prompt"][-1]["content"]
    if end := model.question_end(row["extra_info"], str(content)):
        content += [{"type": "text", "text": end}]
    text, images, _ = prompt_of(data, row["raw_prompt"], processor, model.prompt)
    # A chat template writes the special tokens itself; vLLM repeats that of an image, as it does for verl.
    ids = tokenizer(text, add_special_tokens=model.prompt is not None)["input_ids"]
    return {"prompt_token_ids": ids} | ({"multi_modal_data": {"image": images}} if images else {})


def answer(
    questions: Iterable[Question], engine: Any, model: Model, sampling: Mapping[str, Any], write: Callable[[_Row], None]
) -> None:
    """Ask a `Vllm` all questions, and `write` a row of predictions for each as it is answered.

    `sampling` has temperature, seed and max_tokens (None: the paper's). Reasoning that does not end is tried again with
    another seed, up to `TRIES` times as in the paper; at temperature 0 not after the same text twice. What can't be
    asked has an empty prediction, the status "failed" and its error.
    """
    waiting, names = iter(questions), map(str, itertools.count())
    under_way: dict[str, tuple[Question, int, str | None]] = {}

    def done(question: Question, tries: int, text: str, reason: str, **more: str) -> None:
        arm, identity = question.key
        write({"id": identity, "films": arm, "prediction": text, "finish_reason": reason, "tries": tries, **more})

    def ask(question: Question, number: int, before: str | None = None) -> None:
        tokens = sampling["max_tokens"] or (MAX_THINKING if question.thinking else MAX_TOKENS)
        drawn = stable_hash(f"{sampling['seed']}/{question.key}/{number}") % 2**31  # whatever else is under way
        try:
            engine.ask(name := next(names), question.prompt(), **{**sampling, "max_tokens": tokens, "seed": drawn})
            under_way[name] = question, number, before
        except _BAD_INPUT as error:
            done(question, number, "", "error", status="failed", error=f"{type(error).__name__}: {error}")

    while True:
        for question in (begun := [*itertools.islice(waiting, _IN_FLIGHT - len(under_way))]):
            ask(question, 1)
        if not under_way and not begun:
            return
        for name, text, reason in engine.step() if under_way else ():
            question, number, before = under_way.pop(name)
            again = number < TRIES and (sampling["temperature"] > 0 or text != before)
            if reason not in ("stop", "length"):
                done(question, number, "", "error", status="failed", error=f"vLLM ended it: {reason}")
            elif again and question.thinking and (THINK_END not in text or reason == "length"):
                ask(question, number + 1, text)
            else:
                done(question, number, model.tidy(text), reason)


def run_shard(
    out: Path, questions: Sequence[Question], shard: tuple[int, int], answer: Callable[..., None]
) -> list[_Row] | None:
    """Have a shard's open questions answered; then all rows, or None if other shards have not answered theirs.

    `answer` takes questions and what writes a row. Those that failed before are asked again. UsageError: the shard is
    at work in another process.
    """
    index, count = shard
    with _journal(out / f"journal-{index}-of-{count}.jsonl") as write:
        rows = _answered(out)
        todo = [question for question in questions[index::count] if "error" in rows.get(question.key, ("error",))]
        with tqdm(total=len(todo), unit="answer", disable=not sys.stderr.isatty()) as bar:
            if todo:
                answer(todo, lambda row: bar.update(bool(write(row))))
    rows = _answered(out)
    if any(question.key not in rows for question in questions):
        return None
    ordered = [rows[question.key] for question in questions]
    _replace(out / PREDICTIONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))
    return ordered


def _answered(out: Path) -> dict[_Key, _Row]:
    """What the journals of all shards hold; of several rows for a question, one that did not fail."""
    rows = [row for path in sorted(out.glob("journal-*.jsonl")) for row in read_rows(path.read_bytes())]
    return {(row["films"], row["id"]): row for row in sorted(rows, key=lambda row: "error" not in row)}


def read_rows(content: bytes) -> list[_Row]:
    """The rows of a journal or of predictions.jsonl, without what follows the last line break: a row cut off by a kill.

    A row without `films` is about the own film. ValueError: a line is not JSON.
    """
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [{"films": OWN, **json.loads(line)} for line in lines if line.strip()]


@contextlib.contextmanager
def _journal(path: Path) -> Iterator[Callable[[_Row], int]]:
    """Appends rows to a journal, after the whole lines of a run that was killed; UsageError if another is at work."""
    refusal = f"another process writes {path}; wait for its end, or give each its own --shard"
    with locks.lock(path.with_suffix(".lock"), refusal), path.open("ab+", buffering=0) as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        yield lambda row: file.write(json.dumps(row).encode() + b"\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
