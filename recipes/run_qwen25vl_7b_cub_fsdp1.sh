#!/usr/bin/env bash
# Qwen2.5-VL-7B on CUB, sharded by FSDP 1.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cub_fsdp1 "$@"
