#!/usr/bin/env bash
# Qwen2.5-VL-7B. Oxford Flowers 102, base-to-novel: 51 classes to train on, 51 held out.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_flowers "$@"
