#!/usr/bin/env bash
# Qwen2.5-VL-7B. Stanford Cars, 4 images of each of all 196 classes.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cars_4shot "$@"
