#!/usr/bin/env bash
# Qwen2.5-VL-3B. CUB-200-2011, 4 images of each of all 200 classes.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_3b_cub_4shot "$@"
