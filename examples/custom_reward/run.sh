#!/usr/bin/env bash
# Train the quickstart's model on rewards of your own. usage: bash examples/custom_reward/run.sh [--help] [overrides …]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${VENV:-$root/.venv}
quickstart=${QUICKSTART:-$root/runs/quickstart}
out=${OUT:-$root/runs/custom_reward}
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  cat <<'HELP'
usage: bash examples/custom_reward/run.sh [hydra overrides ...]

Trains on the rewards of examples/custom_reward/spec.yaml for 12 GRPO steps, from the model and the data that
examples/quickstart.sh left in runs/quickstart, and prints every reward's mean after each step. For example
  bash examples/custom_reward/run.sh trainer.total_training_steps=30

Environment: QUICKSTART, folder of a finished quickstart (runs/quickstart); OUT, output folder (runs/custom_reward);
SPEC, another reward spec; VENV, another virtual environment than .venv.
HELP
  exit 0
fi
if [[ ! -f $quickstart/summary.json ]]; then
  echo "run.sh: no finished quickstart in $quickstart. Run bash examples/quickstart.sh first, or set QUICKSTART to its folder." >&2
  exit 2
fi
if [[ ! -x $venv/bin/python ]]; then
  echo "run.sh: no virtual environment $venv. Run bash examples/quickstart.sh --install-only, or set VENV to the one it made." >&2
  exit 2
fi
# The model that the quickstart started from, and the rollout engine that works on this machine, as it has found out.
setting() { "$venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$quickstart/summary.json" "$1"; }
rollout=$(setting rollout)
model=$(setting model)
export VERL_PLATFORM=cpu
exec "$venv/bin/python" -m recipe.cxr_grpo.launch grpo --out "$out" \
  data.train_files="$quickstart/data/train.parquet" data.val_files="$quickstart/data/val.parquet" \
  actor_rollout_ref.model.path="$model" actor_rollout_ref.rollout.name="$rollout" \
  reward.custom_reward_function.reward_kwargs.preset=null \
  reward.custom_reward_function.reward_kwargs.spec="${SPEC:-$here/spec.yaml}" \
  trainer.total_training_steps=12 "$@"
