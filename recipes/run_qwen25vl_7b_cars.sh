#!/usr/bin/env bash
# Qwen2.5-VL-7B on Stanford Cars. Every other recipe is an override (see launch.sh).
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" vlm=qwen25vl_7b task=cars "$@"
