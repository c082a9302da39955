#!/usr/bin/env bash
# Serve a judge for reward `green` with vLLM, on GPUs of its own.
# usage: bash examples/judge/server.sh [MODEL] [vllm options …]     e.g. bash examples/judge/server.sh Qwen/Qwen3-8B
set -euo pipefail

model=StanfordAIMI/GREEN-radllama2-7b
case ${1:-} in
  -h | --help)
    cat <<'HELP'
usage: bash examples/judge/server.sh [MODEL] [vllm options ...]

Serves MODEL (StanfordAIMI/GREEN-radllama2-7b) on port $PORT (8000) with vLLM, and says how to train or score with it.
A general instruct model needs "mode: json" in the reward spec, see examples/judge/README.md.
HELP
    exit 0
    ;;
  "" | -*) ;;
  *)
    model=$1
    shift
    ;;
esac
port=${PORT:-8000}
if ! command -v vllm >/dev/null; then
  echo "server.sh: no command vllm; activate the environment that examples/install.sh made: source .venv/bin/activate" >&2
  exit 2
fi

cat <<EOT
When the server is up, on the machine that trains or scores (with Ray on several nodes: on each, before ray start):
  export CXR_GRPO_JUDGE_URL=http://$(hostname -f):$port/v1 CXR_GRPO_JUDGE_MODEL=$model
and in the reward spec, as this is not encrypted: {name: green, options: {allow_http: true}}
EOT
# Every question begins with the same instructions, and all answers of a group share the reference: cache the prefix.
exec vllm serve "$model" --port "$port" --max-model-len 4096 --enable-prefix-caching "$@"
