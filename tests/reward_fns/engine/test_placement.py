"""Whether replicas leave a trainer what it waits for."""

import pytest

from reward_fns.engine.serving import check_room, refusal
from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions

NODE = {"GPU": 4.0, "CPU": 32.0}


def replicas(count, **options):
    return EngineOptions(where="ray", replicas=count, **options)


@pytest.mark.parametrize(
    ("nodes", "options", "trainer", "numbers"),
    [
        # Ray spreads three quarters of a GPU over three nodes; the sum, which verl checks, would suffice.
        ([{"GPU": 1.0, "CPU": 9.0}] * 3, replicas(3, gpus=0.25), [1, 1], "leave 0, 0, 0 whole GPUs"),
        ([{"GPU": 1.0, "CPU": 9.0}], replicas(1, gpus=0.25), [1], "leave 0 whole GPUs and 8 CPUs"),
        ([NODE], replicas(1, gpus=1), [4], "leave 3 whole GPUs and 31 CPUs, but the trainer needs 1 nodes with 4 GPUs"),
        ([NODE], replicas(3, cpus=8), [4], "leave 4 whole GPUs and 8 CPUs, .* needs 1 nodes with 4 GPUs and 12 CPUs"),
        ([NODE, NODE], replicas(2, gpus=2), [4], "leave 2, 2 whole GPUs"),
        ([NODE], replicas(1), [4, 4], "of 1 nodes with 4 free GPUs"),
    ],
)
def test_too_little_is_refused_with_the_numbers(nodes, options, trainer, numbers):
    import re

    assert re.search(numbers, refusal(nodes, options, trainer))


@pytest.mark.parametrize(
    ("nodes", "options", "trainer"),
    [
        ([NODE, NODE], replicas(4, gpus=0.25), [3, 3]),
        ([NODE, NODE], replicas(2, gpus=0.25), [3, 3]),
        ([NODE], replicas(5, gpus=0.25), [2]),
        ([NODE], replicas(2), [4]),
        ([NODE, {"CPU": 32.0}], replicas(1), [4]),
        ([{"GPU": 3.0, "CPU": 32.0}], replicas(2, gpus=2, cpus=0), [1]),  # the second waits for a node that joins
        ([NODE], replicas(100, cpus=1), []),
    ],
)
def test_enough_is_not(nodes, options, trainer):
    assert refusal(nodes, options, trainer) is None


def test_the_check_asks_the_cluster(monkeypatch):
    state = pytest.importorskip("ray._private.state")
    monkeypatch.setattr(state, "available_resources_per_node", lambda: {"a": NODE})
    check_room(replicas(2), [4])
    with pytest.raises(UsageError, match="leave 3 whole GPUs"):
        check_room(replicas(2, gpus=0.5), [4])
    check_room(replicas(2, gpus=0.5), [])  # no trainer
