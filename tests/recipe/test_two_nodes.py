"""One training run on two Ray nodes, of which one dies: on the CPU, minutes."""

import json
import shutil
import tempfile

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")
pytest.importorskip("ray.serve", exc_type=ImportError)

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.results.metrics import read_metrics
from recipe.cxr_grpo.running.training import run_training
from reward_fns.engine.remote import APP
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import resolve

STEPS = 4
# Without CPUs, the second node is none that verl puts its own workers on. A replica takes two "GPUs": one has room on
# the head, beside the slot that stands for the trainer's device, and one on the second node.
HEAD, SECOND, REPLICA = {"num_cpus": 32, "num_gpus": 3}, {"num_cpus": 0, "num_gpus": 2}, {"cpus": 0.0, "gpus": 2.0}


@pytest.fixture
def cluster(monkeypatch):
    """A head node; its processes and files are its own, also those of nodes that join it."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="cxr", dir="/tmp")  # sockets allow no long path
    # It would tell every Ray program on this machine to join.
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *place: None)
    found = Cluster(initialize_head=True, head_node_args={"temp_dir": folder, "include_dashboard": False, **HEAD})
    try:
        ray.init(address=found.address, log_to_driver=False)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


class Happening:
    """What is done to a cluster while a run goes on: a node joins, takes a replica, and dies in the second step."""

    def __init__(self, cluster, out):
        self.cluster, self.out, self.node, self.killed_after = cluster, out, None, None

    def replicas(self):
        """The number of replicas at work, None before they are asked for."""
        from ray import serve

        found = serve.status().applications.get(APP)
        return found and found.deployments and found.deployments["Scorers"].replica_states.get("RUNNING", 0)

    def __call__(self):
        if self.node is None:
            # Not earlier: TransferQueue wants to store something on every node that is there at the start.
            if self.replicas() is not None:
                self.node = self.cluster.add_node(**SECOND)
        elif self.killed_after is None and (steps := read_metrics(self.out, "grpo")):
            assert self.replicas() == 2
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.killed_after = max(steps)


@pytest.mark.e2e
def test_a_run_outlives_a_node_of_its_scorers(cluster, text_models, tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    assert data_prep(["demo", "--out", str(data), "--patients", "30", "--max-pixels", "16384"]) == 0
    architecture.write_random(model)
    models = {"repo": text_models.scorers, "base": text_models.bert, "encoder": text_models.bert}
    models["bert"] = text_models.root / "distilroberta-base"
    radcliq = {"name": "radcliq", "options": {key: str(value) for key, value in models.items()}}
    rules = {"retries": 5, "backoff": 0.1, "timeout": 60}
    spec = {"report": [radcliq], "grounding": [{"name": "box_soft_f1"}], "failures": rules}
    engine = {"where": "ray", "replicas": 2, "threads": 1, **REPLICA}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec | {"engine": engine}))
    kwargs = "reward.custom_reward_function.reward_kwargs."
    happening = Happening(cluster, tmp_path)
    overrides = [
        f"data.train_files={data}/train.parquet", f"data.val_files={data}/val.parquet",
        f"actor_rollout_ref.model.path={model}", "actor_rollout_ref.rollout.name=hf",
        "data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16", f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1",
        f"trainer.default_local_dir={tmp_path}/checkpoints", f"trainer.rollout_data_dir={tmp_path}/rollouts",
        f"ray_kwargs.ray_init.address={cluster.address}",
        f"{kwargs}preset=null", f"{kwargs}spec={tmp_path}/spec.yaml",
    ]  # fmt: skip
    run_training("grpo", "quickstart_grpo", overrides, out=tmp_path, watch=happening)

    assert happening.killed_after is not None and happening.killed_after < STEPS - 1
    logged = read_metrics(tmp_path, "grpo")
    assert sorted(logged) == [*range(1, STEPS + 1)]
    assert [logged[step]["reward/failed_rollouts"] for step in logged] == [0] * STEPS
    inline, reports = resolve(spec), 0
    for step in logged:
        rows = [json.loads(line) for line in (tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()]
        assert len(rows) == 16
        samples = [Rollout("", row["output"], row["gts"], {"task": row["task"], "id": row["id"]}) for row in rows]
        for row, result in zip(rows, score_batch(samples, inline), strict=True):
            assert row["score"] == pytest.approx(result["score"], abs=1e-5)
            reports += row["task"] == "report"
    assert reports >= 8
