#!/bin/sh
# One run or sweep on all hosts of a TPU pod slice, which find each other; not run on such a slice yet.
#     scripts/tpu/train.sh NAME ZONE --config=configs/adding.py --workdir=/shared/runs/adding
#     COMMAND=sweep scripts/tpu/train.sh NAME ZONE --config=configs/sweeps/init_by_activation.py --workdir=/shared/runs/init
# On every host: this project in ~/rnnlab with its tpu extra in ~/rnnlab/.venv, and the workdir's folder (Filestore, say).
set -eu
name=$1 zone=$2
shift 2
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd rnnlab && .venv/bin/python -m rnnlab.${COMMAND:-train} $*"
