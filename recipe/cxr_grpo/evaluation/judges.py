"""The language models that judge reports in an evaluation."""

import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from reward_fns.errors import UsageError
from reward_fns.judge.client import FIRST, PUBLISHED, Variables, locate

SECOND: Variables = "CXR_GRPO_SECOND_JUDGE"
JUDGED = {"green": (PUBLISHED, FIRST), "second_judge": ("", SECOND)}
"""Metric -> its judge's model where the environment names none, and how these variables begin."""


def judges(metrics: Iterable[str]) -> dict[str, dict[str, str]]:
    """Model and host of the judge of each metric that has one, for results.json.

    UsageError: the environment names none, or the second is the first, by which the model may have been trained.
    """
    found = {name: locate("", "", None, *JUDGED[name]) for name in metrics if name in JUDGED}
    first = os.environ.get(f"{FIRST}_URL", "").rstrip("/"), os.environ.get(f"{FIRST}_MODEL") or PUBLISHED
    if (second := found.get("second_judge")) and (second.base_url.rstrip("/"), second.model) == first:
        what = f"{SECOND}_URL and _MODEL name the same judge as {FIRST}_URL and _MODEL"
        raise UsageError(f"metric second_judge: {what}; name one that the model was not trained with")
    return {name: {"model": judge.model, "host": urlsplit(judge.base_url).netloc} for name, judge in found.items()}
