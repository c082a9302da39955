#!/usr/bin/env bash
# Teach the demo model your own boxes, improve it with GRPO, and measure whether it looks at the film; on the CPU.
# usage: bash examples/own_boxes.sh --root FILMS --annotations BOXES.json [options] [hydra overrides of GRPO …]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
out=runs/own_boxes
films='' annotations='' patients='' model=$root/recipe/cxr_grpo/demo/model
sft_steps=200 steps=30
mixed=() overrides=()
while (($#)); do
  case $1 in
    -h | --help)
      cat <<'HELP'
usage: bash examples/own_boxes.sh --root FILMS --annotations BOXES.json [options] [hydra overrides ...]

From a COCO file to a model that locates its findings, on the CPU: prepares the data (80 % of the patients for training),
trains the model with verl's SFT trainer, improves it with GRPO, and shows what it earns on the held-out patients' own
films and on other patients', before and after GRPO.

  --root DIR             folder of the films
  --annotations FILE     COCO file with their boxes
  --patient-regex RE     its first group in file_name is the patient; without it every file is a patient
  --mix DIR              also train on the data that `python -m data_prep` wrote to this folder; may be repeated
  --model DIR            model to start from (the demo model)
  --sft-steps N          supervised steps (200)
  --steps N              GRPO steps (30)
  --out DIR              output folder (runs/own_boxes); the same command resumes an interrupted run
  --help                 this text

Everything else goes to verl's GRPO trainer as Hydra overrides. VENV names another virtual environment than .venv.
HELP
      exit 0
      ;;
    --root | --annotations | --patient-regex | --mix | --model | --sft-steps | --steps | --out)
      if (($# < 2)); then
        echo "own_boxes.sh: $1 needs a value; see --help" >&2
        exit 2
      fi
      case $1 in
        --root) films=$2 ;;
        --annotations) annotations=$2 ;;
        --patient-regex) patients=$2 ;;
        --mix) mixed+=("$(realpath "$2")") ;;
        --model) model=$(realpath "$2") ;;
        --sft-steps) sft_steps=$2 ;;
        --steps) steps=$2 ;;
        --out) out=$2 ;;
      esac
      shift
      ;;
    *=*) overrides+=("$1") ;;
    *)
      echo "own_boxes.sh: unknown argument $1; see --help" >&2
      exit 2
      ;;
  esac
  shift
done
if [[ -z $films || -z $annotations ]]; then
  echo "own_boxes.sh: give --root and --annotations; see --help" >&2
  exit 2
fi
if [[ ! -x $venv/bin/python ]]; then
  echo "own_boxes.sh: no virtual environment $venv. Run bash examples/quickstart.sh --install-only, or set VENV to the one it made." >&2
  exit 2
fi
python=$venv/bin/python
export VERL_PLATFORM=cpu
mkdir -p "$out"
out=$(realpath "$out")
data=$out/data

if [[ ! -f $data/val.parquet ]]; then
  "$python" -m data_prep coco --root "$films" --annotations "$annotations" --out "$data" \
    --split-by-hash 0.8,0.2,0 ${patients:+--patient-regex "$patients"} --max-pixels 16384
fi
"$python" -m recipe.cxr_grpo.films write "$data/val.parquet" --out "$data/films" >/dev/null

# verl takes a list of files, and draws from all of them alike.
list() { # NAME: this parquet file of the own data and of those that are mixed in
  local IFS=,
  local files=("$data/$1.parquet" "${mixed[@]/%//$1.parquet}")
  echo "[${files[*]}]"
}
sft=$out/sft/model
if [[ ! -f $sft/config.json ]]; then
  "$python" -m recipe.cxr_grpo.launch sft --out "$out/sft" data.train_files="$(list sft_train)" \
    model.path="$model" trainer.total_training_steps="$sft_steps" trainer.save_freq="$sft_steps" optim.lr=5e-4
fi
"$python" -m recipe.cxr_grpo.launch grpo --out "$out/grpo" data.train_files="$(list train)" \
  data.val_files="[$data/val.parquet,$data/films/val-swapped.parquet]" actor_rollout_ref.model.path="$sft" \
  trainer.total_training_steps="$steps" "${overrides[@]}"
"$python" -m recipe.cxr_grpo.films show "$out/grpo"
