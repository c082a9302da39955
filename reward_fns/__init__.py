"""Rewards for chest X-ray reports and grounding.

verl loads `compute_score` from here (`reward.custom_reward_function.path=pkg://reward_fns`); a file with your own
reward imports `reward` and, for grounding, `Box`.
"""

import importlib
from typing import Any

_HOMES = {
    "Box": "reward_fns.boxes",
    "DataError": "reward_fns.errors",
    "ScorerUnavailable": "reward_fns.errors",
    "UsageError": "reward_fns.errors",
    "compute_score": "reward_fns.scoring",
    "reward": "reward_fns.registry",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # On first use, so that importing a small part (the box conventions, say) stays fast.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
