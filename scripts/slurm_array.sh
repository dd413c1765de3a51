#!/bin/bash
#SBATCH --job-name=diffusion-dfl
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --requeue
# One line of a list of commands an array task; docs/cluster.md. An interrupted run goes on where it was.
set -euo pipefail
commands="${1:?usage: sbatch --array=1-N scripts/slurm_array.sh commands.txt}"
command="$(sed -n "${SLURM_ARRAY_TASK_ID:?not in an array job}p" "$commands")"
[[ "$command" == "python train.py "* ]] || { echo "line $SLURM_ARRAY_TASK_ID of $commands is no run: $command" >&2; exit 2; }
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
echo "$command"
# Overrides of one run hold no spaces: `status.py --missing --each` writes them.
read -ra words <<< "$command"
exec "${words[@]}"
