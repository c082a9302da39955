"""The models of the paper's tables, as models.yaml has them, and those that are named by their weights alone."""

import functools
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pydantic
import yaml

from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError, unknown

THINK_END = "</think>"


class Model(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How a model is asked and decodes; see models.yaml for the fields. `thinking` None: as the data asks."""

    title: str
    hub: str | None = None
    architecture: str | None = None
    served: bool = True
    boxes: str | None = None
    thinking: bool | None = None
    temperature: pydantic.NonNegativeFloat = 0.0
    max_tokens: int | None = None
    suffix: dict[str, str] = {}
    prompt: str | None = None
    answer: str | None = None

    def question_end(self, info: Mapping[str, Any], question: str) -> str:
        """What is added to a question about a row with this `extra_info`; "" if the question has it."""
        end = self.suffix.get(info["task"], "").replace("{boxes}", get_convention(info["box_format"]).hint)
        return f" {end}" if end and end not in question else ""

    def tidy(self, text: str) -> str:
        r"""The text with only the answer after </think>, for a model that wraps it; unchanged without an answer.

        >>> Model(title="R1", answer=r"\\boxed\{(.*?)\}").tidy("<think>a</think> The answer is \\boxed{Clear.}")
        '<think>a</think>Clear.'
        """
        head, tag, tail = text.rpartition(THINK_END)
        found = re.findall(self.answer, tail, re.DOTALL) if self.answer else []
        return f"{head}{tag}{found[-1]}" if found else text

    def check(self, info: Mapping[str, Any]) -> None:
        """UsageError for a row, by its `extra_info`, that asks for what the model does not do."""
        where = f"{self.title}, sample {info['id']}"
        if self.architecture is None:
            return
        if self.thinking != info["thinking"]:
            remedy = (
                "with --thinking, and --suffix '' unless it knows /think" if self.thinking else "without --thinking"
            )
            raise UsageError(f"{where}: prepare the data {remedy}; answers are read as the data says")
        if info["task"] == "grounding" and self.boxes != info["box_format"]:
            remedy = f"prepare the data with --box-format {self.boxes}" if self.boxes else "it answers reports only"
            raise UsageError(f"{where}: boxes are asked for as {info['box_format']}; {remedy}")


@functools.cache
def models() -> dict[str, Model]:
    """Name -> row of models.yaml."""
    rows = yaml.safe_load((resources.files(__package__) / "models.yaml").read_text(encoding="utf-8"))
    return {name: Model(**{"thinking": False, **row}) for name, row in rows.items()}


def choose(given: str) -> tuple[Model, str]:
    """A model and its weights by NAME, NAME=WEIGHTS, or WEIGHTS alone: a folder in Hugging Face format, or a hub id.

    UsageError: an unknown name, a model that vLLM does not serve, or weights that are not published.
    """
    name, named, weights = given.partition("=")
    if name not in models():
        if named or not (Path(given).is_dir() or given.count("/") == 1):
            raise UsageError(f"{unknown('model', name, models())}; nor is it a folder or a hub id (owner/name)")
        return Model(title=given), given
    model = models()[name]
    if not model.served:
        advice = "run its own code, and give evaluate its predictions"
        raise UsageError(f"{model.title}: vLLM does not serve {model.architecture}; {advice}")
    if not (chosen := weights or model.hub):
        raise UsageError(f"{model.title}: its weights are not published; give yours as --model {name}=FOLDER")
    return model, chosen
