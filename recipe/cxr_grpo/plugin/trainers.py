"""verl's own V1 trainers with every component of the reward in their logs and dumps; stock verl 0.9.1 lacks them.

Chosen with ``trainer.v1.trainer_mode=cxr_sync`` (or ``cxr_colocate_async``, ``cxr_separate_async``).
"""

import json
import math
import os
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import register_trainer
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.debug import marked_timer

from recipe.cxr_grpo.plugin import components, monitor
from recipe.cxr_grpo.plugin.failure_rates import FailureRates, Totals, since, total
from recipe.cxr_grpo.plugin.reward import check_reward, record_weights
from recipe.cxr_grpo.plugin.time_limit import SAVE, TRIAL, VALIDATION, TimeLimit
from recipe.cxr_grpo.plugin.trial import parquet_files, row_of_each_task, try_rewards
from recipe.cxr_grpo.records import checkpoints, early_stop
from recipe.cxr_grpo.results.metrics import FAILURES
from reward_fns.calling import Counts
from reward_fns.engine import serving
from reward_fns.errors import UsageError

PREFIX = "cxr_"
TRIAL_SECONDS = 600.0  # for the trial of all rewards, weights included, beyond the time limit of a call


class ComponentLogs:
    """Mixin for a ``PPOTrainer``: logs and dumps of all rewards, and an end, with its cause, to a run that can't go on.

    See :class:`.failure_rates.FailureRates` for failing rewards and :class:`.monitor.Monitor` for everything else.
    """

    config: DictConfig
    tokenizer: Any
    use_critic: bool
    global_steps: int
    total_training_steps: int
    timing_raw: dict
    reward_loop_manager: Any
    replay_buffer: Any
    _dump_futures: list[Future]

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
        self.folder = Path(config.trainer.default_local_dir)
        self.rollouts_per_step = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
        self.rates = FailureRates(spec, self.rollouts_per_step)
        self.monitor = monitor.Monitor(self.folder, self._verdict)
        self.monitor.start()
        self.limit = TimeLimit(self.folder, float(os.environ.get(early_stop.JOB_END) or math.inf))
        self.logged: Totals = {}  # the rewards' counts that a metric has reported
        if spec.engine.where == "ray":
            # Before the reward workers, which send requests to it.
            serving.start(spec.engine, [config.trainer.n_gpus_per_node] * config.trainer.nnodes)
        record_weights(self.folder)  # also where verl was started without launch
        super().__init__(config)  # type: ignore[call-arg]

    def on_init_end(self) -> None:
        """As verl's, which gives the engines the weights; from here on all actors are watched."""
        self.monitor.watch(self._peers())
        wait = self.replay_buffer._wait_for_next_poll

        def checked(*args: Any) -> Any:
            self.monitor.check()
            return wait(*args)

        self.replay_buffer._wait_for_next_poll = checked  # where every mode waits for rollouts
        super().on_init_end()  # type: ignore[misc]

    def _peers(self) -> dict[str, monitor.Peer]:
        """The actors without which the run can't go on, by the names that messages give them."""
        workers = self.reward_loop_manager.reward_loop_workers
        peers = {f"reward worker {i}": monitor.Peer(w, components.scorer_counts) for i, w in enumerate(workers)}
        for manager in self._rollout_server_managers():  # type: ignore[attr-defined]
            for handle, address in zip(manager.server_handles, manager.server_addresses, strict=True):
                peers[f"rollout server {address}"] = monitor.Peer(handle, monitor.engine_is_dead)
        for i, handle in enumerate(self.actor_rollout_wg.workers):  # type: ignore[attr-defined]
            peers[f"trainer worker {i}"] = monitor.Peer(handle, monitor.alive)
        return peers

    def fit(self, agent_loop_manager: Any) -> None:
        """As verl's, after a trial of every reward on one row of each task."""
        workers = {f"agent loop worker {i}": w for i, w in enumerate(agent_loop_manager.agent_loop_workers)}
        self.monitor.watch({name: monitor.Peer(worker, monitor.alive) for name, worker in workers.items()})
        try:
            self._try_rewards()
            super().fit(agent_loop_manager)  # type: ignore[misc]
            self.monitor.check()
        finally:
            if not self.monitor.cause:  # else verl's clean-up may hang, on an engine that is dead, say
                self.monitor.done.set()

    def _try_rewards(self) -> None:
        """Let one reward worker score a row of each task; raises RunStopped if it can't, or takes too long."""
        rows = row_of_each_task(parquet_files(self.config), self.spec)
        if not self.reward_loop_manager.reward_loop_worker_handles:
            return  # verl's own reward model shares the GPUs with the trainer, and sleeps
        self._phase(TRIAL)
        kwargs = self.config.reward.custom_reward_function.get("reward_kwargs") or {}
        worker = self.reward_loop_manager.reward_loop_workers[0]
        limit = TRIAL_SECONDS + self.spec.failures.timeout * (self.spec.failures.retries + 1)
        try:
            problem = ray.get(
                worker.__ray_call__.remote(try_rewards, rows, dict(kwargs), self.global_steps), timeout=limit
            )
        except ray.exceptions.GetTimeoutError:
            problem = f"a reward of {', '.join(self.spec.reward_names)} did not return within {limit:.0f} s"
        if problem:
            self.monitor.end(f"the trial of each reward on one row of each task failed: {problem}")

    def _verdict(self, now: Totals) -> str | None:
        """Why failing rewards end the run, if they do; a validation is judged at its end."""
        return self.rates.dead(now) or (None if self.monitor.phase == VALIDATION else self.rates.exceeded(now))

    def _phase(self, name: str) -> None:
        self.monitor.check()
        self.monitor.enter(name, getattr(self, "global_steps", 0))
        self.limit.enter(name)

    def on_step_begin(self) -> None:
        """As verl's, which ends when all samples of a step fail."""
        self._phase("start of the step")
        super().on_step_begin()  # type: ignore[misc]
        if cause := self.rates.dead(self._counts()):
            self.monitor.end(cause)

    def on_sample_begin(self) -> None:
        """As verl's; the trainer waits for rollouts."""
        self._phase("rollouts")
        super().on_sample_begin()  # type: ignore[misc]

    def on_sample_end(self) -> None:
        """As verl's; the trainer has its rollouts."""
        self._phase("update")
        super().on_sample_end()  # type: ignore[misc]

    def on_step_end(self) -> None:
        """As verl's, which gives the engines the new weights; before, the run may have to be saved and stopped."""
        if self.global_steps < self.total_training_steps and (why := self.limit.reached(self._validations())):
            self._stop_early(why)
        self._phase("weights to the engines")
        super().on_step_end()  # type: ignore[misc]
        self._phase("metrics")

    def _validations(self) -> int:
        """How many validations follow this step and the next."""
        freq, step = self.config.trainer.test_freq, self.global_steps
        last = step + 1 >= self.total_training_steps
        return 0 if freq <= 0 else (step % freq == 0) + (last or (step + 1) % freq == 0)

    def _stop_early(self, why: str) -> None:
        """Save this step, unless that is done, and let verl's loop end once its metrics are logged."""
        if (freq := self.config.trainer.save_freq) <= 0 or self.global_steps % freq:
            with marked_timer("save_checkpoint", self.timing_raw, color="green"):
                self._save_checkpoint()
        early_stop.note(self.folder, f"saved at step {self.global_steps} {why}")
        self.total_training_steps = self.global_steps

    def on_validate_begin(self) -> None:
        """As verl's; what failed up to here is not the validation's."""
        self._phase(VALIDATION)
        super().on_validate_begin()  # type: ignore[misc]
        self.before_validation = self._counts()

    def on_validate_end(self) -> None:
        """As verl's."""
        super().on_validate_end()  # type: ignore[misc]
        self._phase("metrics")

    def _update_actor(self, batch: Any, metrics: dict) -> Any:
        """As verl's; raises RunStopped after a loss that is not finite, so that no checkpoint has its weights."""
        batch = super()._update_actor(batch, metrics)  # type: ignore[misc]
        bad = {key: value for key, value in metrics.items() if key.startswith("actor/") and key.endswith("loss")}
        if bad := {key: value for key, value in bad.items() if not math.isfinite(value)}:
            self.monitor.end(
                f"{', '.join(f'{key} is {value}' for key, value in bad.items())} in step {self.global_steps}: the "
                "weights are or would become NaN. The checkpoints before this step are kept. Lower the learning rate, "
                "or check the model's files and the rollouts of this step"
            )
        return batch

    def step(self, metrics: dict, timing_raw: dict) -> Any:
        """As verl's, which would dump the rollouts only after the checkpoint: a run killed between would lose them."""
        batch = super().step(metrics, timing_raw)  # type: ignore[misc]
        if folder := self.config.trainer.get("rollout_data_dir"):
            with marked_timer("dump_rollout_generations", timing_raw, color="green"):
                self._dump_rollouts(batch, folder)
        return batch

    def _save_checkpoint(self) -> None:
        """As verl's, then sealed with a manifest, without which a checkpoint counts as unfinished."""
        self._phase(SAVE)
        for dump in self._dump_futures:
            dump.result()
        super()._save_checkpoint()  # type: ignore[misc]
        if not self.config.actor_rollout_ref.actor.get("checkpoint", {}).get("async_save", False):
            checkpoints.seal(self.folder / f"global_step_{self.global_steps}")
        self._phase("checkpoint saved")

    def _compute_metrics(self, batch: Any, metrics: dict, *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)  # type: ignore[misc]
        prompts, n = self.config.data.train_batch_size, self.config.actor_rollout_ref.rollout.n
        metrics.update(components.statistics(rollouts(batch), self.spec, prompts, n))
        failed = int(metrics["reward/failed_rollouts"])
        now = self._counts()
        counted = since(self.logged, now)
        metrics.update(components.events("reward/scorers", counted, self.spec))
        self.logged = now
        self._record_failures("train", failed, self.rollouts_per_step, counted)
        if cause := self.rates.end_step(now, failed, self.rollouts_per_step):
            self.monitor.stop(cause)  # once this step is logged

    def _val_metrics_update(
        self, sources: list, uids: list, values: dict, turns: list, expected_acc_counts: dict | None = None
    ) -> dict[str, float]:
        """As verl's, but rollouts without a reward are left out of ``acc``, which verl counts as 0, and counted.

        Raises RunStopped if there are too many of them.
        """
        values = {key: components.without_nan(column) for key, column in values.items()}
        metrics = super()._val_metrics_update(sources, uids, values, turns)  # type: ignore[misc]
        rollouts = components.failed_rollouts(components.Columns(sources, uids, values), expected_acc_counts or {})
        now = self._counts()
        counted = since(self.before_validation, now)
        metrics |= rollouts | components.events("reward/validation/scorers", counted, self.spec)
        self.rates.leave_out(self.before_validation, now)
        self.logged = total([self.logged, counted])
        failed, asked = (int(rollouts[f"reward/validation/{key}"]) for key in ("failed_rollouts", "rollouts"))
        self._record_failures("validation", failed, asked, counted)
        if cause := self.rates.of_validation(failed, asked, counted):
            print(f"metrics of this validation: {metrics}")
            self.monitor.end(cause)
        return metrics

    def _record_failures(self, part: str, failed: int, asked: int, counted: Totals) -> None:
        """Append to :data:`FAILURES` what failed in a step or a validation, if anything did."""
        scorers = {
            name: {"samples": count.samples, "failures": count.failures, "causes": dict(count.causes)}
            for name, count in counted.items()
            if count.failures
        }
        if failed or scorers:
            row = {"step": self.global_steps, "part": part, "rollouts": asked, "unscored": failed, "rewards": scorers}
            with (self.folder / FAILURES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def _counts(self) -> dict[str, Counts]:
        """The counts of every reward since the run started, over all reward workers."""
        workers = self.reward_loop_manager.reward_loop_workers
        return total(ray.get([worker.__ray_call__.remote(components.scorer_counts) for worker in workers]))

    def _dump_generations(self, *args: Any, reward_extra_infos_dict: dict[str, list], **kwargs: Any) -> None:
        """As verl's, but NaN, the component of another task, is null: JSON has no NaN."""
        columns = {name: components.without_nan(values) for name, values in reward_extra_infos_dict.items()}
        super()._dump_generations(*args, reward_extra_infos_dict=columns, **kwargs)  # type: ignore[misc]

    def _log_rollout_data(self, batch: Any, timing_raw: dict, rollout_data_dir: str) -> None:
        """Nothing: :meth:`step` has dumped them."""

    def _dump_rollouts(self, batch: Any, folder: str) -> None:
        """Dump what verl does and all that the reward function returned, without verl's padding for failed rollouts."""
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
            dump_path=folder,
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
