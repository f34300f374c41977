#!/usr/bin/env bash
# Put the weights that the LaMP project published into checkpoints/: see prepare/download_models.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download_models.py" "$@"
