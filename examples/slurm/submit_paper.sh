#!/usr/bin/env bash
# Submit jobs.tsv, the paper's runs, to Slurm: each job once those that it needs have succeeded.
# usage: DATA=FOLDER bash examples/slurm/submit_paper.sh [--dry-run] [JOB …] [-- sbatch options]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
table=${JOBS:-$here/jobs.tsv}
venv=${VENV:-$root/.venv}
runs=$(realpath -m "${RUNS:-$root/runs/paper}")
profile=${PROFILE:-paper_32xgh200}

refuse() {
  echo "submit_paper.sh: $1" >&2
  exit 2
}
# shellcheck source=examples/slurm/ask.sh
source "$here/ask.sh"
names() { awk '!/^#/ { printf " %s", $1 }' "$table"; }
needs() { # JOB: the jobs that it needs; a name in the table may end in *
  local part job
  for part in $(column "$1" 2 | tr ',-' '  '); do
    for job in $(names); do
      # shellcheck disable=SC2053  # a pattern
      [[ $job != $part ]] || echo "$job"
    done
  done
}
column() { awk -v job="$1" -v number="$2" '$1 == job { print $number }' "$table"; }

dry='' asked=() extra=()
while (($#)); do
  case $1 in
    -h | --help)
      cat <<'HELP'
usage: DATA=FOLDER bash examples/slurm/submit_paper.sh [--dry-run] [JOB ...] [-- sbatch options]

Submits these jobs, or all, and those that they need: a smoke job of two steps first, then supervised training, the cold
start, GRPO, each model's answers and their scores, and the tables. A job that is complete or in the queue is not submitted
again; one that fails takes those after it with it. Everything after -- goes to each sbatch:

  DATA=/data/cxr JUDGE=Qwen/Qwen3-8B bash examples/slurm/submit_paper.sh -- --account=me --partition=normal

  --dry-run   print each sbatch line and what it asks for, and stop; needs no Slurm, data, weights or installation
  --help      this text

Environment: that of examples/paper/run.sh and of train.sbatch beside this; jobs that ask a judge need JUDGE. With SCORERS=no
the reward workers compute neural rewards themselves, on CPUs. JOBS is a table of your own, instead of jobs.tsv.

Jobs, those that each needs, hours, what is served beside the training, and the script with its arguments:
HELP
      cat "$table"
      exit 0
      ;;
    --dry-run) dry=yes ;;
    --)
      extra=("${@:2}")
      break
      ;;
    -*) refuse "unknown option $1; options of sbatch come after --, see --help" ;;
    *)
      [[ -n $(column "$1" 1) ]] || refuse "no job $1 in $table; there are$(names)"
      asked+=("$1")
      ;;
  esac
  shift
done
settings=$root/recipe/cxr_grpo/config/profile/$profile.yaml
[[ -f $settings ]] || refuse "no PROFILE=$profile; see examples/paper/run.sh --help"
[[ -n ${DATA:-} ]] || refuse "DATA is not set: export the folder of prepared data; see examples/paper/README.md"
[[ -n $dry ]] || command -v sbatch >/dev/null || refuse "no sbatch on $HOSTNAME: run this where jobs are submitted, or with --dry-run"
[[ -n $dry || -n ${CONTAINER:-} || -x $venv/bin/python ]] || refuse "no virtual environment $venv: run bash examples/install.sh $venv gpu, or set VENV or CONTAINER"
DATA=$(realpath -m "$DATA") && export DATA

declare -A wanted=() ids=()
want() { # JOB: it, and all that it needs
  local before
  wanted[$1]=yes
  for before in $(needs "$1"); do want "$before"; done
}
((${#asked[@]})) || read -ra asked <<<"$(names)"
for job in "${asked[@]}"; do want "$job"; done

setting() { # KEY: what the job's arguments set trainer.KEY to, else the profile
  { sed -n "s/^  $1: *//p" "$settings" && printf '%s\n' "${arguments[@]}" | sed -n "s/^trainer\.$1=//p"; } | tail -n 1
}
describe() { # JOB: sets line, its sbatch command; vars, its environment; asks, what it asks for; out, the run's folder
  local hours serves script arguments nodes gpus dependency='' before folder kind
  read -r _ _ hours serves script arguments < <(awk -v job="$1" '$1 == job' "$table")
  read -ra arguments <<<"$arguments"
  nodes=$(setting nnodes) gpus=$(setting n_gpus_per_node) asks=
  vars=(PROFILE="$profile" RUNS="$runs" SCORERS=no JUDGE=)
  if [[ $script == evaluate.sbatch ]]; then
    out=$runs/tables kind=afterany
    nodes=1
    if [[ ${arguments[0]} == tables ]]; then  # made of what there is
      gpus=0
    else
      out=$runs/answers/${arguments[2]}-${arguments[3]} kind=afterok
    fi
  else
    [[ $1 == "${arguments[0]}" ]] || vars[1]=RUNS=$runs/$1
    out=${vars[1]#*=}/${arguments[0]} kind=afterok
  fi
  if [[ $serves == *scorers* && ${SCORERS:-yes} != no && -z ${CXR_GRPO_SCORERS_URL:-} ]]; then
    vars[2]=SCORERS=yes asks+=", with scorers" nodes=$((nodes + 1))
  fi
  if [[ $serves == *judge* && -z ${CXR_GRPO_JUDGE_URL:-} ]]; then
    [[ -n $dry || -n ${JUDGE:-} ]] || refuse "JUDGE is not set: job $1 asks a judge; set JUDGE=Qwen/Qwen3-8B, or name the jobs to submit"
    vars[3]=JUDGE=${JUDGE:-MODEL} asks+=", with a judge" nodes=$((nodes + 1))
  fi
  [[ $pass == submit || $script == evaluate.sbatch ]] || bash "$root/examples/paper/run.sh" "${arguments[@]}" --dry-run >/dev/null || exit 2
  while read -r folder; do
    [[ -n $dry || -d $DATA/$folder ]] || refuse "no folder $DATA/$folder, which job $1 reads: examples/paper/README.md says how to make it"
  done < <(if [[ $script == evaluate.sbatch ]]; then printf '%s\n' "${arguments[@]:3:1}"; else
    awk -v run="${arguments[0]}" '$1 == run { gsub("[+]", "\n", $4); print $4 }' "$root/examples/paper/runs.tsv"
  fi)
  for before in $(needs "$1"); do
    [[ -z ${ids[$before]:-} ]] || dependency+=:${ids[$before]}
  done
  line=(sbatch --parsable --job-name="cxr-$1" --chdir="$root" --output="$runs/slurm/$1-%j.out" --time="$hours:00:00")
  if [[ $profile == cpu ]]; then  # scorers and judge share the first node
    nodes=$(setting nnodes) asks="$(setting nnodes) nodes, no GPU, $hours h$asks"
    line+=(--nodes="$nodes" --cpus-per-task=4)
  elif ((gpus == 0)); then
    asks="1 node, no GPU, $hours h"
    line+=(--nodes=1 --cpus-per-task=4)
  else
    line+=(--nodes="$nodes" --gpus-per-node="$gpus")
    if ((gpus > 1)); then line+=(--exclusive --mem=0); else line+=(--cpus-per-task=16 --mem=64G); fi  # as preflight counts
    asks="$nodes nodes, $((nodes * gpus)) GPUs, $hours h$asks"
  fi
  [[ -z $dependency ]] || line+=(--dependency="$kind$dependency" --kill-on-invalid-dep=yes)
  line+=("${extra[@]}" "examples/slurm/$script" "${arguments[@]}")
}

for pass in check submit; do # nothing is submitted before everything is checked
  for job in $(names); do
    [[ -n ${wanted[$job]:-} ]] || continue
    describe "$job"
    queued=''
    [[ -n $dry || ! -s $out/slurm_job ]] || queued=$(ask squeue -h -j "$(<"$out/slurm_job")" -o %i)
    if [[ -f $out/finished ]]; then
      said="# $job: complete"
    elif [[ -n $queued ]]; then
      ids[$job]=$queued said="# $job: job $queued, already in the queue"
    elif [[ -n $dry ]]; then
      ids[$job]=ID_OF_$job said="# $job: $asks"$'\n'$(printf '%q ' "${vars[@]}" "${line[@]}")
    elif [[ $pass == submit ]]; then
      mkdir -p "$out" "$runs/slurm"
      ids[$job]=$(cd "$root" && env "${vars[@]}" "${line[@]}")
      ids[$job]=${ids[$job]%%;*}  # of several clusters, the name follows
      echo "${ids[$job]}" >"$out/slurm_job"
      said="# $job: job ${ids[$job]}, $asks"
    fi
    [[ $pass == check ]] || echo "$said"
  done
done
