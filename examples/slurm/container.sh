# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by job scripts, with `root` and `folders` set: `inside`, the words between srun and a command that run it in
# CONTAINER, with these folders, or bare. Slurm sets ROCR_VISIBLE_DEVICES for each step, and verl refuses it beside
# CUDA_VISIBLE_DEVICES.
plain=(env -u ROCR_VISIBLE_DEVICES -u HIP_VISIBLE_DEVICES) mounts=$root:$root
for folder in "${folders[@]}" "${DATA:-}" "${HF_HOME:-$HOME/.cache/huggingface}" "${MODEL:-}" "${START:-}" "${JUDGE:-}" ${MOUNTS:+${MOUNTS//,/ }}; do
  [[ $folder != /* || ! -d $folder ]] || mounts+=,$folder:$folder
done
case ${CONTAINER:-} in
  '') inside=("${plain[@]}") ;;
  apptainer:*) inside=("${plain[@]}" apptainer exec --nv --bind "$mounts" "${CONTAINER#*:}") ;;
  pyxis:*) inside=(--container-image="${CONTAINER#*:}" --container-mounts="$mounts" "${plain[@]}") ;;
  edf:*) inside=(--environment="${CONTAINER#*:}" "${plain[@]}") ;;
  *) refuse "CONTAINER=$CONTAINER is none of apptainer:IMAGE, pyxis:IMAGE and edf:NAME" ;;
esac
