"""The language models that judge reports in an evaluation."""

import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from reward_fns.errors import UsageError
from reward_fns.judge.client import FIRST, PUBLISHED, SECOND, locate

JUDGED = {"green": (FIRST, PUBLISHED), "second_judge": (SECOND, "")}
"""Metric -> how the environment variables of its judge begin, and the model where they name none."""


def judges(metrics: Iterable[str]) -> dict[str, dict[str, str]]:
    """Model and host of the judge of each metric that has one, for results.json.

    UsageError: the environment names none, or the second is the first, by which the model may have been trained.
    """
    found = {
        name: locate("", "", None, JUDGED[name][1], variables=JUDGED[name][0]) for name in metrics if name in JUDGED
    }
    if second := found.get("second_judge"):
        url, model = (os.environ.get(f"{FIRST}_{part}", "") for part in ("URL", "MODEL"))
        if (url.rstrip("/"), model or PUBLISHED) == (second.base_url.rstrip("/"), second.model):
            raise UsageError(
                f"metric second_judge: {SECOND}_URL and {SECOND}_MODEL name the same judge as {FIRST}_URL and "
                f"{FIRST}_MODEL; name one that the model was not trained with"
            )
    return {name: {"model": judge.model, "host": urlsplit(judge.base_url).netloc} for name, judge in found.items()}
