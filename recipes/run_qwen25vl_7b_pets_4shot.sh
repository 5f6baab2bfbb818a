#!/usr/bin/env bash
# Qwen2.5-VL-7B. Oxford-IIIT Pets, 4 images of each of all 37 classes.
set -xeuo pipefail
exec bash "$(dirname "$0")/launch.sh" qwen25vl_7b_pets_4shot "$@"
