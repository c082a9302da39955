"""Fetch ahead what rewards need."""

import sys
from collections.abc import Iterable

from reward_fns.errors import UsageError
from reward_fns.models.weights import HubFile, fetch, fetch_folder, used
from reward_fns.spec import RewardSpec


def download(specs: Iterable[RewardSpec]) -> list[str]:
    """Fetch the files that specs' rewards need, print each with its hash, and return (and print) what failed."""
    failures: list[str] = []
    for component in (part for spec in specs for components in spec.tasks.values() for part in components):
        reward = component.reward
        if reward.needs is None:
            continue
        try:
            for source in reward.needs({**reward.options, **reward.bound, **component.options}):
                before = used()
                _ = fetch(source) if isinstance(source, HubFile) else fetch_folder(source)
                for name, file in used().items():
                    if name not in before:
                        print(f"{file.sha256}  {file.size:>12}  {name}", flush=True)
        except UsageError as error:
            failures.append(f"{reward.name}: {error}")
    for failure in dict.fromkeys(failures):
        print(f"failed: {failure}", file=sys.stderr)
    return failures
