"""The reward spec of a run, checked before anything starts, and the weights that it needs."""

import json
from pathlib import Path
from typing import Any

from reward_fns.errors import UsageError
from reward_fns.models.weights import download, loaded
from reward_fns.spec import RewardSpec, resolve


def check_reward(config: Any) -> RewardSpec | None:
    """The reward spec of a run, or None if its reward is not this package's; fetches the weights that it needs.

    Raises UsageError if the spec has a mistake, weights are unavailable, or verl would make a scorer's failure a 0.
    """
    function = config.reward.custom_reward_function
    if function.path != "pkg://reward_fns":
        return None
    if config.reward.reward_manager.name == "rate_limited":
        # verl 0.9.1 experimental/reward_loop/reward_manager/limited.py: any exception becomes a score of 0.
        raise UsageError(
            "reward.reward_manager.name=rate_limited makes a scorer's failure a reward of 0 and trains on it: use naive"
        )
    kwargs = function.get("reward_kwargs") or {}
    spec = resolve(spec=kwargs.get("spec"), preset=kwargs.get("preset"))
    # A deployment reached over HTTP has its own weights.
    if spec.engine.where != "http" and (failures := download([spec])):
        raise UsageError("\n".join(dict.fromkeys(failures)))
    return spec


def record_weights(folder: Path) -> None:
    """Write ``folder/weights.json``: the SHA-256 of every weight file that this process has loaded, if any."""
    if hashes := loaded():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.json").write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n")
