"""`python -m reward_fns precision`: what changes when models run faster and less exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reward_fns.engine.lanes import Tap, tapped
from reward_fns.scoring import Rollout, score_batch
from reward_fns.settings import EngineOptions
from reward_fns.spec import RewardSpec

_MOVES = (1e-4, 1e-3, 1e-2)


@dataclass
class Changes:
    """What has changed so far between float32 and a setting of the engine; call `add` for samples and then `lines`."""

    spec: RewardSpec  # rewards without a model are left out
    setting: EngineOptions
    moves: dict[str, list[float]] = field(default_factory=dict)  # per reward, how far each of its values moved
    failures: list[str] = field(default_factory=list)  # of samples that could not be scored in one of the two ways
    counts: dict[str, list[int]] = field(default_factory=dict)  # the models' results: how many, how many changed

    def __post_init__(self) -> None:
        tasks = {task: tuple(part for part in parts if part.reward.needs) for task, parts in self.spec.tasks.items()}
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
        for read in before.keys() & after.keys():
            old, new = before[read], after[read]
            if read[0][0] == "radgraph":
                entities = [{(e.start, e.end, e.label) for e in side} for side in (old, new)]
                relations = [
                    {(e.start, e.end, kind, side[to].start, side[to].end) for e in side for kind, to in e.relations}
                    for side in (old, new)
                ]
                self._count("RadGraph, texts with any change", 1, old != new)
                self._count("RadGraph, entities lost or new", len(entities[0]), len(entities[0] ^ entities[1]))
                self._count("RadGraph, relations lost or new", len(relations[0]), len(relations[0] ^ relations[1]))
            elif read[0][0] == "chexbert":
                changed = sum(a != b for a, b in zip(old.classes, new.classes, strict=True))
                self._count("CheXbert, labels changed", len(old.classes), changed)

    def _count(self, what: str, total: int, changed: int) -> None:
        before = self.counts.get(what, (0, 0))
        self.counts[what] = [before[0] + total, before[1] + changed]

    def lines(self) -> list[str]:
        """The changes, a line for each reward and each kind of result."""
        report = []
        for name, moves in self.moves.items():
            shares = ", ".join(f"{sum(move > m for move in moves) / len(moves):.2%} by > {m:g}" for m in _MOVES)
            mean = sum(moves) / len(moves)
            report.append(f"{name}: of {len(moves)} values moved {shares}; mean {mean:.3g}, at most {max(moves):.3g}")
        for what, (total, changed) in sorted(self.counts.items()):
            report += [f"{what}: {changed} of {total} ({changed / total:.2%})"] if total else []
        return report
