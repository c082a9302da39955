# shellcheck shell=bash
# Sourced by the scripts here.
ask() { # COMMAND …: what one of Slurm's commands prints, nothing of a job that Slurm no longer knows; asked again if it fails
  local said status errors pause why
  errors=$(mktemp)
  for pause in 2 4 6 8 10 0; do # a busy controller closes connections, and one that starts again is away for a while
    said=$("$@" 2>"$errors") && status=0 || status=$?
    ! grep -q 'Invalid job id specified' "$errors" || status=0
    ((status)) || break
    sleep "$pause"
  done
  why=$(paste -sd ' ' "$errors")
  rm -f "$errors"
  ((status == 0)) || refuse "'$*' failed six times, the last time with status $status: ${why:-no message}. Try again once sinfo answers"
  echo "$said"
}
