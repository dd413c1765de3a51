#!/bin/bash
#SBATCH --job-name=diffusion-dfl
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
# One line of a list of commands an array task; docs/cluster.md. An interrupted run goes on where it was.
set -uo pipefail
commands="${1:?usage: sbatch --array=1-N scripts/slurm_array.sh commands.txt}"
command="$(sed -n "${SLURM_ARRAY_TASK_ID:?not in an array job}p" "$commands")"
[[ "$command" == "python train.py "* ]] || { echo "line $SLURM_ARRAY_TASK_ID of $commands is no run: $command" >&2; exit 2; }
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
echo "$command"
# Overrides of one run hold no spaces: `status.py --missing --each` writes them.
read -ra words <<< "$command"
"${words[@]}" &
run=$!
# A minute before the time is up, and at a preemption, Slurm tells this script; the run is told in turn.
stopped=
trap 'stopped=1; kill -USR1 "$run"' USR1 TERM
wait "$run"
code=$?
# A trap ends the wait before the run has ended.
while kill -0 "$run" 2>/dev/null; do wait "$run"; code=$?; done
if [[ -n "$stopped" && "$code" -eq 138 ]]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:?}}_$SLURM_ARRAY_TASK_ID" && exit 0
fi
exit "$code"
