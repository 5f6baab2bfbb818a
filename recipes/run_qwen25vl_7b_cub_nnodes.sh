#!/usr/bin/env bash
# Qwen2.5-VL-7B on CUB, NNODES nodes of 8 GPUs: 6 prompts a step for each node, the same images in all.
set -xeuo pipefail
: "${NNODES:?set NNODES to the number of nodes}"
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cub \
    recipe.variant="_${NNODES}nodes" \
    data.train_batch_size=$((6 * NNODES)) \
    "$@"
