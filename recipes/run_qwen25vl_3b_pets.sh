#!/usr/bin/env bash
# Qwen2.5-VL-3B. Oxford-IIIT Pets, base-to-novel: 19 classes to train on, 18 held out.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_3b_pets "$@"
