#!/usr/bin/env bash
# Put a published evaluator and its normalisation into checkpoints/<dataset_name>/: see prepare/download.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download.py" evaluator "$@"
