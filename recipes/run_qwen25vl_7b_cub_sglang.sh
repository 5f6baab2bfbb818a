#!/usr/bin/env bash
# Qwen2.5-VL-7B on CUB with SGLang as rollout engine.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cub_sglang "$@"
