#!/usr/bin/env bash
# A TPU job on GKE by xpk: two slices. podmonitor.yml scrapes it.
#
#   CLUSTER=my-cluster IMAGE=REGION-docker.pkg.dev/PROJECT/train/train:1.0 bash workload.sh train-4711
#   xpk workload delete --cluster my-cluster --workload train-4711
#
# jax and jitwatch are installed in the image. The pods of xpk use the network of their node, so that no NetworkPolicy
# holds for them, and whoever reaches the node reaches the endpoint: the token is the protection. It is a file in the
# image or on a mounted volume; podmonitor.yml has the place of the same token for Prometheus.
set -euo pipefail

workload=${1:?name of the workload, which is also the name of the run}
slices=${SLICES:-2}
# With more than 64 processes, no series is by function.
detail=${JITWATCH_DETAIL:-full}

exec xpk workload create \
  --cluster "${CLUSTER:?name of the cluster}" \
  --workload "$workload" \
  --tpu-type "${TPU_TYPE:-v5litepod-16}" \
  --num-slices "$slices" \
  --docker-image "${IMAGE:?image of the job}" \
  --env "JITWATCH_RUN=$workload" \
  --env JITWATCH_HOST=0.0.0.0 \
  --env "JITWATCH_TOKEN_FILE=${TOKEN_FILE:-/etc/jitwatch/token}" \
  --env "JITWATCH_DETAIL=$detail" \
  --env JITWATCH_EVENT_LOG=/tmp/jitwatch/ \
  --command 'mkdir -p /tmp/jitwatch && jitwatch run --quiet train.py'
