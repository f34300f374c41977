#!/usr/bin/env bash
# Download a published evaluator and its normalisation to checkpoints/<dataset_name>/; see prepare/download.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download.py" evaluator "$@"
