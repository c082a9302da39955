#!/usr/bin/env bash
# One step of a job on one node: Ray's daemons, the scorers, the judge, the training, or answers to questions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# From train.sbatch; `here` is the number of the node's GPUs.
[[ $1 == answer ]] || : "${venv:?} ${logs:?} ${port:?} ${slots:?} ${gpus:?} ${nnodes:?} ${here:?}"
ulimit -Sn "$(ulimit -Hn)" 2>/dev/null || true

# gloo, on which verl's processes meet on GPUs too, would take the interface of the node's name: often that of 127.0.1.1.
if ((${nnodes:-1} > 1)) && [[ -z ${GLOO_SOCKET_IFNAME:-} ]]; then
  own=$(sed -n "$((SLURM_PROCID + 1))p" <<<"${addresses:-}")
  interface=$(ip -o -4 address 2>/dev/null | awk -v own="$own/" 'index($4, own) == 1 { print $2 }' || true)
  [[ -z $interface ]] || export GLOO_SOCKET_IFNAME=$interface
fi

see_gpus() { # FROM TO: only these of the step's GPUs, counted from 1
  if ((here)); then
    CUDA_VISIBLE_DEVICES=$(cut -d, -f"$1-$2" <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((here - 1)))}")
    export CUDA_VISIBLE_DEVICES
  fi
}
answers() { # HOST PORT: waits until something listens there
  until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do sleep 1; done
}
# Not `ray symmetric-run`: it refuses nodes on which any Ray runs, and at its end calls `ray stop`, which ends every Ray
# of this user on the node, other jobs' too.
ray() { # HEAD_ADDRESS: Ray's daemons on this node, until they are ended
  see_gpus 1 "$gpus"
  local own=$((port + 10 * SLURM_PROCID)) options
  RAY_FOLDER=$(mktemp -d /tmp/cxr-XXXXXX)  # for this user only, and short: Ray makes sockets in it
  trap 'rm -rf "$RAY_FOLDER"' EXIT
  options=(--temp-dir="$RAY_FOLDER" --num-cpus="$slots" --num-gpus="$gpus" --disable-usage-stats --block
    --node-manager-port=$((own + 1)) --object-manager-port=$((own + 2)) --runtime-env-agent-port=$((own + 3))
    --dashboard-agent-listen-port=$((own + 4)) --dashboard-agent-grpc-port=$((own + 5)) --metrics-export-port=$((own + 6)))
  export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # or each node would wait 30 seconds at the job's end for one that is gone
  if ((SLURM_PROCID == 0)); then
    "$venv/bin/ray" start --head --node-ip-address="$1" --port="$port" --include-dashboard=false "${options[@]}"
  else
    answers "$1" "$port"
    "$venv/bin/ray" start --address="$1:$port" "${options[@]}"
  fi
}
scorers() { # FROM TO ADDRESS PORT: a deployment in a Ray of its own
  see_gpus "$1" "$2"
  RAY_TMPDIR=$(mktemp -d /tmp/cxr-XXXXXX) && export RAY_TMPDIR
  trap 'rm -rf "$RAY_TMPDIR"' EXIT
  cat >"$logs/scorers.yaml" <<EOT
proxy_location: HeadOnly
http_options: {host: $3, port: $4}
applications:
  - {name: cxr-grpo-scorers, route_prefix: /, import_path: "reward_fns.engine.serving:application", args: {replicas: $((here ? $2 - $1 + 1 : 1)), gpus: $((here ? 1 : 0)), cpus: 1}}
EOT
  env -u RAY_ADDRESS "$venv/bin/serve" run "$logs/scorers.yaml"
}
judge() { # FROM TO ADDRESS PORT: a server of JUDGE
  see_gpus "$1" "$2"
  PATH=$venv/bin:$PATH PORT=$4 exec bash examples/judge/server.sh "$JUDGE" --host "$3" --data-parallel-size $((here ? $2 - $1 + 1 : 1))
}
train() { # COMMAND …: the command, once the whole Ray cluster is there, if it is to join one
  if [[ -n ${RAY_ADDRESS:-} ]]; then
    answers "${RAY_ADDRESS%:*}" "$port"
    "$venv/bin/python" - <<'PY'
import os, time, ray
want, deadline = int(os.environ["nnodes"]), time.monotonic() + 300
ray.init(log_to_driver=False)
while (found := sum(node["Alive"] for node in ray.nodes())) < want:
    if time.monotonic() > deadline:
        raise SystemExit(f"{found} of {want} nodes joined Ray within 5 minutes; see ray.log")
    time.sleep(1)
PY
  fi
  echo $$ >"$logs/train.pid"
  exec "$@"
}
answer() { # GPUS COMMAND …: the command, which generates answers, on each GPU a part of them
  local shards=$(($1 ? $1 : 1)) i parts=() status=0 visible
  IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((shards - 1)))}"
  for ((i = 0; i < shards; i++)); do
    (($1 == 0)) || export CUDA_VISIBLE_DEVICES=${visible[i]}
    "${@:2}" --shard "$i/$shards" &
    parts+=($!)
  done
  for i in "${parts[@]}"; do wait "$i" || status=$?; done
  return "$status"
}
case $1 in ray | scorers | judge | train | answer) "$@" ;; esac
