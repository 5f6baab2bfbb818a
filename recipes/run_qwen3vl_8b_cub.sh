#!/usr/bin/env bash
# Qwen3-VL-8B on CUB.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen3vl_8b_cub "$@"
