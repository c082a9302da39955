#!/usr/bin/env bash
# GRPO on reports with a judge that verl runs itself, on GPUs of its own.
# usage: bash examples/judge/inside_verl.sh MODEL GPUS [main_ppo overrides …]
set -euo pipefail

case ${1:-} in
  "" | -h | --help)
    cat <<'HELP'
usage: bash examples/judge/inside_verl.sh MODEL GPUS [main_ppo overrides ...]

Trains with verl, and a general instruct MODEL as judge on GPUS more GPUs of one node. Give the data, the policy and the
rest as overrides:
  bash examples/judge/inside_verl.sh Qwen/Qwen3-8B 2 algorithm.adv_estimator=grpo data.train_files=...
HELP
    exit 0
    ;;
esac
model=$1
gpus=${2:?usage: bash examples/judge/inside_verl.sh MODEL GPUS [main_ppo overrides …]}
shift 2

# enable_resource_pool: verl 0.9.1 can't ask a judge that shares the policy's GPUs from a reward function.
# free_cache_engine: verl would put the judge to sleep at the start, and wakes only judges that share GPUs.
exec "${PYTHON:-python}" -m verl.trainer.main_ppo \
  reward.reward_model.enable=True \
  reward.reward_model.enable_resource_pool=True \
  reward.reward_model.nnodes=1 \
  reward.reward_model.n_gpus_per_node="$gpus" \
  reward.reward_model.model_path="$model" \
  reward.reward_model.rollout.name=vllm \
  reward.reward_model.rollout.tensor_model_parallel_size=1 \
  reward.reward_model.rollout.free_cache_engine=False \
  reward.custom_reward_function.path=pkg://reward_fns \
  "+reward.custom_reward_function.reward_kwargs.spec={report: [{name: green, options: {mode: json, model: '$model'}}, {name: gleu, weight: 0}]}" \
  "$@"
