"""Ray Serve for real: over HTTP as `serve run` starts it, and on two nodes of which one dies."""

import asyncio
import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from reward_fns.engine import remote
from reward_fns.errors import UsageError
from reward_fns.scoring import Rollout, score_batch, score_samples
from reward_fns.settings import EngineOptions
from reward_fns.spec import resolve

ROOT = Path(__file__).parents[3]


def test_the_example_configuration_names_what_is_there():
    config = yaml.safe_load((ROOT / "examples/scorers/serve.yaml").read_text())
    (app,) = config["applications"]
    module, _, name = app["import_path"].partition(":")
    serving = importlib.import_module(module)
    assert callable(getattr(serving, name)) and app["name"] == serving.APP
    assert EngineOptions(where="ray", **app["args"]).replicas == 1


def test_options_of_the_application_are_checked():
    pytest.importorskip("ray.serve", exc_type=ImportError)
    from reward_fns.engine.serving import application

    assert application({"replicas": 2, "max_replicas": 4, "gpus": 0.25})
    with pytest.raises(UsageError, match="scorers: unknown key 'replicsa'; did you mean 'replicas'"):
        application({"replicsa": 2})


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with room for one replica each; its processes and files are its own."""
    pytest.importorskip("ray.serve", exc_type=ImportError)
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="cxr", dir="/tmp")  # sockets allow no long path
    # It would tell every Ray program on this machine to join.
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *place: None)
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    found = Cluster(initialize_head=True, head_node_args={"temp_dir": folder, "include_dashboard": False, **small})
    try:
        second = found.add_node(temp_dir=folder, **small)
        ray.init(address=found.address, log_to_driver=False)
        yield found, second
    finally:
        remote.leave()
        ray.shutdown()
        found.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def radcliq(text_models):
    options = {"repo": str(text_models.scorers), "base": str(text_models.bert), "encoder": str(text_models.bert)}
    return {"name": "radcliq", "options": options | {"bert": str(text_models.root / "distilroberta-base")}}


def _up(address):
    try:
        urllib.request.urlopen(f"{address}/score", timeout=5)
    except urllib.error.HTTPError as error:
        return b"POST a request" in error.read()  # before, the proxy knows no such route
    except OSError:
        return False
    raise AssertionError("a GET is answered")


@pytest.fixture
def served(tmp_path):
    """Address of what `serve run` makes of the example's configuration, on a port that is free."""
    pytest.importorskip("ray.serve", exc_type=ImportError)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = yaml.safe_load((ROOT / "examples/scorers/serve.yaml").read_text())
    config["http_options"]["port"] = port
    path, folder = tmp_path / "serve.yaml", tempfile.mkdtemp(prefix="cxr", dir="/tmp")
    path.write_text(yaml.safe_dump(config))
    env = os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [str(Path(sys.executable).parent / "serve"), "run", str(path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.time() + 180
        while not _up(address):
            assert process.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.e2e
def test_serve_run_answers_over_http_what_is_computed_inline(served, radcliq):
    engine = {"where": "http", "address": served}
    near, far = (resolve({"report": [radcliq], **more}) for more in ({}, {"engine": engine}))
    texts = [f"The heart is enlarged. {'Small effusion. ' * (i % 5)}No edema {i}." for i in range(24)]
    samples = [Rollout("x/report", text, {"report": texts[i // 8]}, {"id": str(i)}) for i, text in enumerate(texts)]
    assert score_batch(samples, far) == [pytest.approx(result, abs=1e-5) for result in score_batch(samples, near)]


async def _until_a_second_replica_runs(spec):
    """Have requests queue all the time until there is one, and every one of them be answered."""
    from ray import serve

    deadline, running = time.time() + 90, 1

    def replicas():
        return serve.status().applications[remote.APP].deployments["Scorers"].replica_states.get("RUNNING", 0)

    async def ask(i):
        asked = 0
        while running < 2 and time.time() < deadline:
            asked += 1
            sample = Rollout("x/report", f"No edema {asked}. Heart {i} is enlarged.", {"report": "No edema."}, {})
            (result,) = await score_samples([sample], spec)
            assert isinstance(result, dict)

    async def watch():
        nonlocal running
        while running < 2 and time.time() < deadline:
            running = await asyncio.to_thread(replicas)
            await asyncio.sleep(0.5)

    assert replicas() == 1
    await asyncio.gather(watch(), *map(ask, range(300)))
    assert running == 2


@pytest.mark.e2e
def test_two_replicas_read_each_distinct_text_once(cluster, radcliq):
    from bench.scorers.trial import of_all_replicas

    from reward_fns.engine import lanes, serving

    engine = {"where": "ray", "replicas": 2, "cpus": 1.0}
    near, far = (resolve({"report": [radcliq], **more}) for more in ({}, {"engine": engine}))
    references = [f"The heart is enlarged. {'Small effusion. ' * i}No edema." for i in range(9)]
    texts = [f"Heart size {i // 2}. {references[i % 9]}" for i in range(60)] + references  # some rollouts twice
    pairs = [(text, references[i % 9]) for i, text in enumerate(texts)]
    samples = [Rollout("x/report", text, {"report": true}, {"id": str(i)}) for i, (text, true) in enumerate(pairs)]
    serving.start(EngineOptions(**engine))

    async def alone():  # as verl asks
        return [result for (result,) in await asyncio.gather(*(score_samples([sample], far) for sample in samples))]

    lanes._lanes.clear()
    expected = asyncio.run(score_samples(samples, near))
    distinct = sum(lane.counts["read"] for lane in lanes.lanes().values())
    assert distinct == 3 * len({text for pair in pairs for text in pair})
    for results in (asyncio.run(alone()), asyncio.run(score_samples(samples, far))):
        assert results == [pytest.approx(result, abs=1e-5) for result in expected]
    counts, _, _ = of_all_replicas(2)
    assert counts["read"] == distinct
    assert 0 < counts["fetched"] <= 3 * 2 * len(references)  # into each replica once per model, at most


@pytest.mark.e2e
def test_a_replica_joins_when_requests_queue_and_dies_with_its_node_midway(cluster, radcliq):
    from reward_fns.engine import serving

    engine = {"where": "ray", "replicas": 1, "max_replicas": 2, "cpus": 1.0}
    rules = {"retries": 5, "backoff": 0.1, "timeout": 60, "concurrency": 300}
    near, far = (resolve({"report": [radcliq], "failures": rules, **more}) for more in ({}, {"engine": engine}))
    texts = [f"The heart is enlarged. {'Small effusion. ' * (i % 9)}No edema {i}." for i in range(80)]
    samples = [Rollout("x/report", text, {"report": texts[i // 8]}, {"id": str(i)}) for i, text in enumerate(texts)]
    nodes, second = cluster
    serving.start(EngineOptions(**engine))
    serving.start(EngineOptions(**engine))  # as the trainer does after a restart: no harm
    asyncio.run(_until_a_second_replica_runs(far))

    async def run():
        async def one(i, sample):
            (result,) = await score_samples([sample], far)
            if i == 30:  # half-way, with others under way
                await asyncio.to_thread(nodes.remove_node, second, False)
            return result

        return await asyncio.gather(*(one(i, sample) for i, sample in enumerate(samples)))

    assert asyncio.run(run()) == [
        pytest.approx(result, abs=1e-5) for result in asyncio.run(score_samples(samples, near))
    ]
