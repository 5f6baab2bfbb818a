#!/usr/bin/env bash
# Qwen2.5-VL-7B on CUB, two nodes of 8 GPUs: twice the prompts a step, half the steps.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cub_2nodes "$@"
