"""Report rewards registered by a test, and samples for them."""

from reward_fns.registry import reward
from reward_fns.scoring import Rollout
from reward_fns.spec import resolve


def report(text, sample_id="p7", **info):
    return Rollout("set/report", text, {"report": "clear"}, {"id": sample_id, **info})


def toy(function, rules=None, name="toy", **arguments):
    """Register a report reward of range 0 to 1; give its spec."""
    reward(name, task="report", range=(0.0, 1.0), **arguments)(function)
    return resolve({"report": [{"name": name}], "failures": rules or {}})


def values(results):
    return [result if isinstance(result, Exception) else result["toy"] for result in results]
