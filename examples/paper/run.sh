#!/usr/bin/env bash
# One run of the paper (arXiv 2512.10691), or of a rival's method, by its name in runs.tsv.
# usage: DATA=FOLDER bash examples/paper/run.sh RUN [--preflight [--download]] [--dry-run] [hydra overrides …]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${VENV:-$root/.venv}
python=$venv/bin/python
runs=$(realpath -m "${RUNS:-$root/runs/paper}")
profile=${PROFILE:-paper_32xgh200}

refuse() {
  echo "run.sh: $1" >&2
  exit 2
}
names() { awk '!/^#/ { printf " %s", $1 }' "$here/runs.tsv"; }
column() { awk -v run="$1" -v number="$2" '$1 == run { print $number }' "$here/runs.tsv"; }

name='' dry='' module=launch look=() overrides=()
for argument in "$@"; do
  case $argument in
    -h | --help)
      cat <<'HELP'
usage: DATA=FOLDER bash examples/paper/run.sh RUN [--preflight [--download]] [--dry-run] [hydra overrides ...]

Trains one model of the paper with verl, from the configs in recipe/cxr_grpo/config. What it needs is checked first: a
missing variable, folder or weight is named, with what to do, and the exit status is 2. The same command resumes.

  --preflight look at machine, weights, data, rewards and config instead of training, on a login node or a compute node:
              a table of what passes and fails, with what to do; the exit status is 1 if anything fails
  --download  with --preflight: fetch missing weights
  --dry-run   print the command that would run, and stop; needs no data, weights, GPU or installation
  --help      this text

Everything else is a Hydra override, for example trainer.total_training_steps=20. Environment:

  DATA            folder of prepared data, in which the folders of the column `data` below lie (README.md beside this)
  RUNS            folder of the runs (runs/paper), in which later runs find the models of earlier ones
  PROFILE         the machine: cpu, gpu_24g, gpu_80g, node_8x80g or paper_32xgh200 (the default)
  MODEL           2B, 4B, 8B (the default; for gpu_24g, 2B) or 30B of Qwen3-VL, qwen2.5-3B or qwen2.5-7B, or a folder
  START           folder of the model to start from, instead of what the column `start` says
  FREEZE_VISION   yes: the vision tower stays as it is
  VENV            another virtual environment than .venv

Runs, the model that each starts from (instruct and thinking are the published ones), its data and its settings:
HELP
      cat "$here/runs.tsv"
      exit 0
      ;;
    --dry-run) dry=yes ;;
    --preflight) module=preflight ;;
    --download) look+=("$argument") ;;
    -*) refuse "unknown option $argument; see --help" ;;
    *=*) overrides+=("$argument") ;;
    *)
      [[ -z $name ]] || refuse "one run at a time, got $name and $argument; see --help"
      name=$argument
      ;;
  esac
done
[[ $module == preflight || ${#look[@]} == 0 ]] || refuse "--download goes with --preflight; see --help"
[[ -n $name ]] || refuse "which run? One of$(names)"
trainer=$(column "$name" 2) start=$(column "$name" 3) data=$(column "$name" 4)
[[ -n $trainer ]] || refuse "no run $name in $here/runs.tsv; there are$(names)"
read -ra settings < <(awk -v run="$name" '$1 == run { for (i = 5; i <= NF; i++) printf "%s ", $i }' "$here/runs.tsv") || true
[[ -f $root/recipe/cxr_grpo/config/profile/$profile.yaml ]] || refuse "no PROFILE=$profile; see --help"
[[ -n ${DATA:-} ]] || refuse "DATA is not set: export the folder in which the folder $data lies; see examples/paper/README.md"
data_root=$(realpath -m "$DATA")

# The model: where its published weights are, and what of the config depends on its kind.
model=${MODEL:-${START:-$([[ $profile == gpu_24g ]] && echo 2B || echo 8B)}}
case $model in
  2B | 4B | 8B) instruct=Qwen/Qwen3-VL-$model-Instruct family=qwen3vl ;;
  30B) instruct=Qwen/Qwen3-VL-30B-A3B-Instruct family=qwen3vl_moe ;;
  qwen2.5-3B | qwen2.5-7B) instruct=Qwen/Qwen2.5-VL-${model#*-}-Instruct family=qwen25vl ;;
  *)
    [[ -f $model/config.json ]] || refuse "$model is not a model: give MODEL=8B, or another size of --help, or a folder with a config.json"
    instruct=$(realpath "$model")
    case $(grep -om1 '"model_type": "qwen[^"]*"' "$model/config.json") in
      *qwen3_vl_moe*) family=qwen3vl_moe ;;
      *qwen3_vl*) family=qwen3vl ;;
      *qwen2_5_vl*) family=qwen25vl ;;
      *) refuse "$model is neither a Qwen3-VL nor a Qwen2.5-VL: its config.json names another model_type" ;;
    esac
    ;;
esac
case $profile:$model in
  gpu_24g:8B | gpu_24g:30B | gpu_24g:qwen2.5-7B | gpu_80g:30B) refuse "MODEL=$model does not fit PROFILE=$profile; see the table in examples/paper/README.md" ;;
  *:qwen2.5*) [[ $start != thinking ]] || refuse "run $name starts from a thinking model, and there is none of MODEL=$model: choose 8B, or set START" ;;
esac

# The model that this run starts from.
case ${START:+given}:$start in
  given:*) from=$(realpath -m "$START") ;;
  :instruct) from=$instruct ;;
  :thinking) from=${instruct/%-Instruct/-Thinking} ;;
  *) from=$runs/$start/model ;;
esac
whole() { # FOLDER: a model with all its shards; with lora_adapter beside it, it would be the bare base of an adapter
  [[ -f $1/config.json && ! -d $1/lora_adapter ]] && compgen -G "$1/*.safetensors" >/dev/null || return 1
  local shard
  while read -r shard; do
    [[ -f $1/$shard ]] || return 1
  done < <(grep -os '[^"]*\.safetensors' "$1/model.safetensors.index.json")
}
downloaded() {
  "$python" -c 'import sys, huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1], local_files_only=True))' "$1" 2>/dev/null
}
if [[ -z $dry ]]; then
  [[ -x $python ]] || refuse "no virtual environment $venv: run bash examples/install.sh $venv gpu (on a laptop: cpu), or set VENV to one"
  case $from in
    Qwen/*) [[ $module == preflight ]] || whole "$(downloaded "$from")" || refuse "no weights of $from here: run $venv/bin/hf download $from where there is internet, with HF_HOME in a folder that all nodes see, or set START to a folder" ;;
    "$runs/$start"/*) [[ -d $from ]] || refuse "no finished run $start in $runs (no $start/model): run bash examples/paper/run.sh $start, to its end, or set START to a model" ;;&
    *) whole "$from" || refuse "$from is not a complete model (config.json, all *.safetensors, no lora_adapter): make it with $python -m recipe.cxr_grpo.merge CHECKPOINT FOLDER, or set START to a model" ;;
  esac
fi

# verl takes lists of files, and draws from all of them alike.
files() { # NAME: the parquet files of this name, or their shards, in each folder of the run's data or one below
  local folder path found list=()
  for folder in ${data//+/ }; do
    found=
    for path in "$data_root/$folder"/{,*/}"$1"{,-[0-9]*}.parquet; do
      [[ ! -f $path ]] || { list+=("$path") && found=yes; }
    done
    if [[ -z $found ]]; then
      [[ -n $dry || $module == preflight || $1 == sft_val ]] || refuse "no $1.parquet in $data_root/$folder, nor one below: run $name needs it; examples/paper/README.md says how to make it"
      [[ $1 == sft_val && -d $data_root/$folder ]] || list+=("$data_root/$folder/$1.parquet")
    fi
  done
  local IFS=,
  echo "[${list[*]}]"
}
command=("$python" -m "recipe.cxr_grpo.$module" "$trainer" --out "$runs/$name" --config-name "$trainer" "${look[@]}")
command+=("profile=$profile" "${settings[@]}")
if [[ $trainer == sft ]]; then
  key=model train=$(files sft_train)
  validation=$(files sft_val)  # may be empty: the RadVLM instructions are all for training
else
  key=actor_rollout_ref.model train=$(files train)
  validation=$(files val)
  command+=("family=$family")
fi
command+=("data.train_files=$train" "data.val_files=$validation" "$key.path=$from" "trainer.experiment_name=$name")
if [[ ${settings[*]} == *unirg_stage2* && $module == launch && -z $dry && -z ${CXR_GRPO_JUDGE_URL:-} ]]; then
  refuse "CXR_GRPO_JUDGE_URL is not set: run $name asks a judge; bash examples/judge/server.sh starts one and says what to set"
fi
if [[ ${FREEZE_VISION:-} == yes ]]; then
  command+=("$key.external_lib=recipe.cxr_grpo.plugin.frozen_vision")
fi
if [[ $profile == cpu ]]; then
  export VERL_PLATFORM=cpu
elif [[ -x $python ]] && ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("flash_attn") is None)'; then
  echo "run.sh: no flash-attn in $venv: PyTorch's own attention is used, which is slower; see examples/install.sh" >&2
  command+=("+$key.override_config.attn_implementation=sdpa")
  [[ $family != qwen25vl ]] || command+=("$key.use_remove_padding=false")  # verl packs rows for it with flash-attn only
fi
command+=("${overrides[@]}")
if [[ -n $dry ]]; then
  printf '%q ' ${VERL_PLATFORM:+"VERL_PLATFORM=$VERL_PLATFORM"} "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
