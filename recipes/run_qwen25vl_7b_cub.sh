#!/usr/bin/env bash
# Qwen2.5-VL-7B. CUB-200-2011, base-to-novel: 100 classes to train on, 100 held out.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cub "$@"
