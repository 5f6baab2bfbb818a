#!/usr/bin/env bash
# Qwen2.5-VL-7B. Oxford Flowers 102, 4 images of each of all 102 classes.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_flowers_4shot "$@"
