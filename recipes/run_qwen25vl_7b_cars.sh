#!/usr/bin/env bash
# Qwen2.5-VL-7B. Stanford Cars, base-to-novel: 98 classes to train on, 98 held out.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_cars "$@"
