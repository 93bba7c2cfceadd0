#!/bin/sh
# One part of a run per task: sbatch --array=1-8 shards.sh; then: crs merge reports/shards/*/*-of-8
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=04:00:00
exec crs run --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX" \
  -p threads="$SLURM_CPUS_PER_TASK" -p n_profiles=661 -p dialogues_per_profile=16
