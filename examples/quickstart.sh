#!/usr/bin/env bash
# Improve a small Qwen3-VL on demo chest films with verl's GRPO trainer, on the CPU, and show whether it looks at them.
# usage: bash examples/quickstart.sh [--out DIR] [--seed N] [--steps N] [--install-only] [--help] [hydra overrides …]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
arguments=()
install_only=
for argument in "$@"; do
  case $argument in
    --install-only) install_only=yes ;;
    -h | --help)
      cat <<'HELP'
usage: bash examples/quickstart.sh [options] [hydra overrides ...]

Improves a small Qwen3-VL on generated chest films with verl's GRPO trainer and vLLM rollouts, on the CPU: demo data,
evaluation, GRPO on grounding and reports, evaluation, summary.json, report.html and viewer.html. Each evaluation asks about every
patient's own film and, as a control, the same about another patient's.

  --out DIR        output folder (runs/quickstart); the same command resumes an interrupted run
  --seed N         seed of data, model, training and rollouts (0)
  --steps N        GRPO steps (25)
  --patients N     demo patients (900)
  --restarts N     after a failure, GRPO goes on from its newest sound checkpoint, at most N times (0)
  --from-scratch   first train the demo model, which otherwise comes with the package
  --sft-steps N    supervised steps of --from-scratch (1200)
  --install-only   make the virtual environment and stop
  --help           this text

Everything else goes to verl as Hydra overrides, for example
  bash examples/quickstart.sh --steps 5 actor_rollout_ref.actor.optim.lr=5e-5
The environment variable VENV names a virtual environment other than .venv.
HELP
      exit 0
      ;;
    *) arguments+=("$argument") ;;
  esac
done

bash "$root/examples/install.sh" "$venv" cpu
if [[ -n $install_only ]]; then
  echo "installed in $venv"
  exit 0
fi
export VERL_PLATFORM=cpu
exec "$venv/bin/python" -m recipe.cxr_grpo.quickstart "${arguments[@]}"
