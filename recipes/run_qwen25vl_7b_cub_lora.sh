#!/usr/bin/env bash
# Qwen2.5-VL-7B on CUB with LoRA on the language model; the vision tower stays as it is.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cub_lora "$@"
