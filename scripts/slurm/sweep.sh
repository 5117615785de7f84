#!/bin/bash
# A sweep as a job array, each job with a GPU of its own; run it where sbatch is. On one node without GPUs this was run.
#     bash scripts/slurm/sweep.sh configs/sweeps/init_by_activation.py /shared/runs/init --jobs=16
# The workdir is on a file system that all nodes share. The jobs take groups that no other holds, by locks on its files;
# where locks are each node's own (NFS with local_lock, Lustre with localflock), add --shard=each. --replicas makes
# groups small enough for all jobs to have one. Preempted, or 90 s before its time is over, a job saves and goes back to
# the queue; from there it resumes. What a cancelled array has left undone, the same command submits again.
set -euo pipefail

python -m rnnlab.sweep --config="$1" --workdir="$2" --replicas=16 --submit=slurm --jobs=8 \
    --slurm.time=240 --slurm.gpus_per_node=1 --slurm.cpus_per_task=8 "${@:3}"
