#!/usr/bin/env bash
# Download the published LaMP weights to checkpoints/; see prepare/download_models.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download_models.py" "$@"
