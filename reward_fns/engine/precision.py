"""`python -m reward_fns precision`: what changes when models run faster and less exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reward_fns.engine.lanes import Tap, tapped
from reward_fns.scoring import Rollout, score_batch
from reward_fns.settings import EngineOptions
from reward_fns.spec import RewardSpec

_MOVES = (1e-4, 1e-3, 1e-2)


@dataclass
class Changes:
    """What has changed so far; `add` and then `lines`.

    Attributes:
        spec: of the rewards, of which those without a model are left out.
        setting: of the engine, to be compared with float32.
        moves: per reward, by how much each of its values has moved.
        failures: samples that could not be scored in either way.
        texts, entities, relations: of RadGraph, how many there are and how many have changed.
        labels: the same of CheXbert.
    """

    spec: RewardSpec
    setting: EngineOptions
    moves: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    texts: list[int] = field(default_factory=lambda: [0, 0])
    entities: list[int] = field(default_factory=lambda: [0, 0])
    relations: list[int] = field(default_factory=lambda: [0, 0])
    labels: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        tasks = {
            task: tuple(part for part in parts if part.reward.needs is not None)
            for task, parts in self.spec.tasks.items()
        }
        self.spec = replace(self.spec, tasks={task: parts for task, parts in tasks.items() if parts})

    def add(self, samples: Sequence[Rollout]) -> None:
        """Score samples in both ways and compare."""
        exact = replace(self.setting, dtype="float32", compile=False)
        taps: tuple[Tap, Tap] = ({}, {})
        results = []
        for tap, engine in zip(taps, (exact, self.setting), strict=True):
            with tapped(tap):
                results.append(score_batch(samples, replace(self.spec, engine=engine)))
        for before, after in zip(*results, strict=True):
            if isinstance(before, dict) and isinstance(after, dict):
                for name in self.spec.reward_names:
                    self.moves.setdefault(name, []).append(abs(before[name] - after[name]))
            else:
                self.failures += [str(result) for result in (before, after) if not isinstance(result, dict)][:1]
        self._compare(*taps)

    def _compare(self, before: Tap, after: Tap) -> None:
        for place in before.keys() & after.keys():
            old, new = before[place], after[place]
            if place[0][0] == "radgraph":
                entities = [{(e.start, e.end, e.label) for e in side} for side in (old, new)]
                relations = [
                    {(e.start, e.end, kind, side[to].start, side[to].end) for e in side for kind, to in e.relations}
                    for side in (old, new)
                ]
                _count(self.texts, 1, old != new)
                _count(self.entities, len(entities[0]), len(entities[0] ^ entities[1]))
                _count(self.relations, len(relations[0]), len(relations[0] ^ relations[1]))
            elif place[0][0] == "chexbert":
                _count(
                    self.labels, len(old.classes), sum(a != b for a, b in zip(old.classes, new.classes, strict=True))
                )

    def lines(self) -> list[str]:
        """What there is to say."""
        found = []
        for name, moves in self.moves.items():
            shares = ", ".join(
                f"{sum(move > least for move in moves) / len(moves):.2%} by > {least:g}" for least in _MOVES
            )
            found.append(
                f"{name}: of {len(moves)} values moved {shares}; "
                f"mean {sum(moves) / len(moves):.3g}, at most {max(moves):.3g}"
            )
        counted = {
            "RadGraph, texts with any change": self.texts,
            "RadGraph, entities lost or new": self.entities,
            "RadGraph, relations lost or new": self.relations,
            "CheXbert, labels changed": self.labels,
        }
        found += [f"{what}: {n} of {total} ({n / total:.2%})" for what, (total, n) in counted.items() if total]
        return found


def _count(place: list[int], total: int, changed: int) -> None:
    place[0] += total
    place[1] += changed
