"""verl's own V1 trainers with every component of the reward in their logs and dumps; stock verl 0.9.1 lacks them.

Chosen with ``trainer.v1.trainer_mode=cxr_sync`` (or ``cxr_colocate_async``, ``cxr_separate_async``).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import register_trainer
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.debug import marked_timer

from recipe.cxr_grpo.plugin import components
from recipe.cxr_grpo.plugin.reward import check_reward, record_weights
from reward_fns.calling import Counts
from reward_fns.engine import serving
from reward_fns.errors import ScorerUnavailable, UsageError

PREFIX = "cxr_"


class ComponentLogs:
    """Mixin for a ``PPOTrainer`` that logs and dumps what :func:`reward_fns.compute_score` returned."""

    config: DictConfig
    tokenizer: Any
    use_critic: bool
    reward_loop_manager: Any

    def __init__(self, config: DictConfig) -> None:
        with open_dict(config):
            # verl 0.9.1 compares the mode with "sync" in many places and looks its options up by it.
            config.trainer.v1.trainer_mode = config.trainer.v1.trainer_mode.removeprefix(PREFIX)
        spec = check_reward(config)
        if spec is None:
            raise UsageError(
                f"trainer.v1.trainer_mode={PREFIX}… logs the rewards of reward_fns: set "
                "reward.custom_reward_function.path=pkg://reward_fns, or the mode without its prefix"
            )
        self.spec = spec
        self.logged_events: Counter[str] = Counter()  # those of _scorer_events that a metric has counted
        if spec.engine.where == "ray":
            # Before the reward workers, which send requests to it.
            serving.start(spec.engine, [config.trainer.n_gpus_per_node] * config.trainer.nnodes)
        record_weights(Path(config.trainer.default_local_dir))  # also where verl was started without launch
        super().__init__(config)  # type: ignore[call-arg]

    def on_step_begin(self) -> None:
        """As verl's, which ends when all samples of a step fail; also ends if a reward with a weight was given up."""
        super().on_step_begin()  # type: ignore[misc]
        trained = {part.reward.name for parts in self.spec.tasks.values() for part in parts if part.weight}
        for name, _, cause in self._reward_workers():
            if cause and name in trained:
                raise ScorerUnavailable(name, "*", cause)

    def on_validate_begin(self) -> None:
        """As verl's; counts the scorers' failures up to here, which are not the validation's."""
        super().on_validate_begin()  # type: ignore[misc]
        self.before_validation = self._scorer_events()

    def _compute_metrics(self, batch: Any, metrics: dict, *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)  # type: ignore[misc]
        prompts, n = self.config.data.train_batch_size, self.config.actor_rollout_ref.rollout.n
        metrics.update(components.statistics(rollouts(batch), self.spec, prompts, n))
        events = self._scorer_events()
        metrics.update({f"reward/scorers/{key}": events[key] - self.logged_events[key] for key in events})
        self.logged_events = Counter(events)

    def _val_metrics_update(
        self, sources: list, uids: list, values: dict, turns: list, expected_acc_counts: dict | None = None
    ) -> dict[str, float]:
        """As verl's, but failed rollouts count the floor in ``acc``; see :func:`.components.with_failures`."""
        scored = components.Columns(sources, uids, values)
        columns, counts = components.with_failures(scored, expected_acc_counts or {}, self.spec)
        metrics = super()._val_metrics_update(*columns, turns)  # type: ignore[misc]
        during = {key: count - self.before_validation[key] for key, count in self._scorer_events().items()}
        self.logged_events.update(during)
        return metrics | counts | {f"reward/validation/scorers/{key}": count for key, count in during.items()}

    def _scorer_events(self) -> dict[str, int]:
        """Failures and retries of every reward since the run started, over all reward workers."""
        events = {f"{name}/{event}": 0 for name in self.spec.reward_names for event in ("failures", "retries")}
        for name, count, _ in self._reward_workers():
            if f"{name}/failures" in events:
                events[f"{name}/failures"] += count.failures
                events[f"{name}/retries"] += count.retries
        return events

    def _reward_workers(self) -> Iterator[tuple[str, Counts, str | None]]:
        """Each reward in each reward worker: its name, its counters, and why it was given up, if it was."""
        workers = self.reward_loop_manager.reward_loop_workers
        for rewards in ray.get([worker.__ray_call__.remote(components.scorer_counts) for worker in workers]):
            yield from ((name, *fared) for name, fared in rewards.items())

    def _dump_generations(self, *args: Any, reward_extra_infos_dict: dict[str, list], **kwargs: Any) -> None:
        """As verl's, but NaN, the component of another task, is null: JSON has no NaN."""
        columns = {name: components.without_nan(values) for name, values in reward_extra_infos_dict.items()}
        super()._dump_generations(*args, reward_extra_infos_dict=columns, **kwargs)  # type: ignore[misc]

    def _log_rollout_data(self, batch: Any, timing_raw: dict, rollout_data_dir: str) -> None:
        """As verl's, with all that the reward function returned, and without verl's padding for failed rollouts."""
        with marked_timer("dump_rollout_generations", timing_raw, color="green"):
            rows = sorted(rollouts(batch), key=lambda row: row.key)
            keys = [row.key for row in rows]
            fields = ["prompts", "responses", "rm_scores", "reward_model"]
            data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
            columns: dict[str, list] = {"uid": keys, "id": [row.id for row in rows], "task": [row.task for row in rows]}
            columns |= {name: [row.values[name] for row in rows] for name in rows[0].values}
            self._dump_generations(
                inputs=self._texts(data["prompts"]),
                outputs=self._texts(data["responses"]),
                gts=[item["ground_truth"] for item in data.pop("reward_model").tolist()],
                scores=[float(scores.sum()) for scores in data["rm_scores"].unbind()],
                reward_extra_infos_dict=columns,
                dump_path=rollout_data_dir,
            )

    def _texts(self, tokens: Any) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens.unbind()]

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        """As verl's, but a group's only rollout gets an advantage of 0, not its bare reward (core_algos.py:315)."""
        batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        if self.use_critic or self.config.actor_rollout_ref.rollout.n == 1:
            return batch
        keys = scored_keys(batch)
        sessions = Counter(session.rsplit("_", 1)[0] for session in {key.rsplit("_", 1)[0] for key in keys})
        if lone := [key for key in keys if sessions[group_of(key)] == 1]:
            selection = {"keys": lone, "partition_id": batch.partition_id}
            data = tq.kv_batch_get(**selection, select_fields=["advantages", "returns"])
            tq.kv_batch_put(**selection, fields=data.apply(lambda values: values * 0.0))
        return batch


def group_of(key: str) -> str:
    """The prompt's uid in one of verl's trajectory keys, ``<uid>_<session>_<output>``."""
    return key.rsplit("_", 2)[0]


def scored_keys(batch: Any) -> list[str]:
    """The keys of a batch's rollouts, without verl's padding."""
    return [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]


def rollouts(batch: Any) -> list[components.ScoredRollout]:
    """The scored rollouts of a training batch, from the fields that verl keeps of each."""
    keys = scored_keys(batch)
    fields = ["extra_fields", "extra_info", "data_source"]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
    columns = (data.pop(field).tolist() for field in fields)
    scored = []
    for key, extra, info, source in zip(keys, *columns, strict=True):
        task = str(info.get("task") or source.rpartition("/")[2])
        values = {name: float(value) for name, value in extra["reward_extra_info"].items()}
        scored.append(components.ScoredRollout(key, group_of(key), task, str(info.get("id", "")), values))
    return scored


for mode, trainer in list(TRAINER_REGISTRY.items()):
    register_trainer(PREFIX + mode)(type(f"{trainer.__name__}WithComponents", (ComponentLogs, trainer), {}))
