import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

# Slurm's commands and a virtual environment, for the scripts of examples/slurm.
ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm"
# srun runs the command here, once for each node, and passes signals on; each step may use the GPUs of its node.
SRUN = """#!/usr/bin/env python3
import os, subprocess, sys
args, options = sys.argv[1:], {}
while args[0].startswith("--"):
    key, _, value = args.pop(0).partition("=")
    options[key] = value
with open(os.environ["CALLS"], "a") as calls:
    print("srun", *sys.argv[1:], file=calls)
visible = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "ROCR_VISIBLE_DEVICES": "0"} if os.environ.get("GPUS") else {}
with open(options["--output"], "a") as log:
    tasks = [subprocess.Popen(args, env={**os.environ, **visible, "SLURM_PROCID": str(i)}, stdout=log, stderr=log)
             for i in range(int(options["--ntasks"]))]
with open(os.environ["CALLS"] + ".tasks", "a") as pids:
    print(*(task.pid for task in tasks), file=pids)
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >>"$CALLS"
case "$1 $2" in
  "show hostnames") seq -f 'n%g' "$NODES" ;;
  "show node") echo "NodeName=$3 NodeAddr=127.0.0.1 Port=1" ;;
esac
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >>"$CALLS"
[[ "$*" != "--signal=TERM $SLURM_JOB_ID" ]] || kill $(cat "$CALLS.tasks") 2>/dev/null
"""
SQUEUE = """#!/bin/bash
if [[ "$*" == *"${DEAF:--}" && ! -e $CALLS.deaf ]]; then touch "$CALLS.deaf"; kill -PIPE $$; fi  # once
[[ -z $AWAY ]] || { echo "slurm_load_jobs error: $AWAY" >&2; exit 1; }
case "$*" in *%e) date -d "+${MINUTES:-600} minutes" +%FT%T ;; *) [[ " $QUEUE " != *" $3 "* ]] || echo "$3" ;; esac
"""
SBATCH = """#!/bin/bash
echo "RUNS=$RUNS SCORERS=$SCORERS JUDGE=$JUDGE sbatch $*" >>"$CALLS"
grep -c ' sbatch ' "$CALLS"
"""
# Any python, ray, vllm, serve and container program: notes how it was called, then does what DO says.
PROGRAM = """#!/bin/bash
( flock 9  # programs start at the same time, and each notes several lines
  echo "$(basename "$0") $*"; env | grep -E '^(CUDA|ROCR|CXR_GRPO|WANDB|MASTER|RAY_A|SLURM_JOB_E)' | sort
) >>"$CALLS" 9>"$CALLS.lock"
case "$(basename "$0") $*" in
  *find_spec*) exit 1 ;;
  apptainer*) while [[ $1 != image.sif ]]; do shift; done && shift && exec "$@" ;;
  serve*) exec python3 "$(dirname "$0")/server.py" "$(grep -oE 'port: [0-9]+' "$2" | cut -d' ' -f2)" ;;
  vllm*) [[ -z $DEAD_JUDGE ]] || exit 9; echo $$ >"$CALLS.judge"; exec python3 "$(dirname "$0")/server.py" "$4" ;;
  "ray start --head"*) exec python3 "$(dirname "$0")/server.py" "$(grep -oE '[-]-port=[0-9]+' <<<"$*" | cut -d= -f2)" ;;
  ray*) exec sleep 60 ;;
  python*launch*) eval "$DO" ;;
esac
"""
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"usage": "POST", "data": [{"id": "my/judge"}]}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def place(tmp_path):
    """A folder with stand-ins for all programs, in bin, and for a virtual environment."""
    programs = {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "squeue": SQUEUE,
        "sbatch": SBATCH,
        "apptainer": PROGRAM,
        "scancel": SCANCEL,
    }
    environment = dict.fromkeys(("python", "ray", "serve", "vllm"), PROGRAM) | {"server.py": SERVER}
    for folder, contents in {"bin": programs, "venv/bin": environment}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name, text in contents.items():
            (tmp_path / folder / name).write_text(text)
            (tmp_path / folder / name).chmod(0o755)
    for folder in ("sft", "report", "report_hint", "grounding"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name in ("train", "val", "sft_train", "sft_val"):
            (tmp_path / "data" / folder / f"{name}.parquet").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "calls").touch()
    return tmp_path


@pytest.fixture
def environment(place):
    """Makes the environment of a script from what differs from that of a job on one node."""

    def make(**env):
        kept = {name: os.environ[name] for name in ("PATH", "HOME")}
        return kept | {
            "PATH": f"{place}/bin:{kept['PATH']}", "CALLS": f"{place}/calls", "VENV": f"{place}/venv",
            "DATA": f"{place}/data", "RUNS": f"{place}/runs", "START": f"{place}/model",
            "SLURM_JOB_ID": str(100 + os.getpid() % 100), "NODES": "1", "SLURM_JOB_NODELIST": "n[1-9]",
            "SLURM_JOB_CPUS_PER_NODE": "72(x8),36",
            "PROFILE": "cpu", "DO": "exit 0", "HF_HOME": f"{place}/nowhere",
        } | {key: str(value) for key, value in env.items()}  # fmt: skip

    return make


@pytest.fixture
def job(place, environment):
    """Run train.sbatch as Slurm would; returns the process, what its parts were called with, and the run's folder."""

    def start(*arguments, cwd=ROOT, **env):
        command = ["bash", str(SLURM / "train.sbatch"), *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command, cwd=cwd, env=environment(**env), **streams) as process:
            try:
                done = subprocess.CompletedProcess(command, None, *process.communicate(timeout=120))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        done.returncode = process.returncode
        return done, (place / "calls").read_text(), place / "runs" / str((arguments or ["-"])[0])

    return start


@pytest.fixture
def submit(place, environment):
    """Run submit_paper.sh; returns the process and the calls of sbatch."""

    def run(*arguments, **env):
        command = ["bash", str(SLURM / "submit_paper.sh"), *arguments]
        given = environment(**{"START": ""} | env)
        done = subprocess.run(command, env=given, capture_output=True, text=True)
        return done, [line for line in (place / "calls").read_text().splitlines() if " sbatch " in line]

    return run
