#!/usr/bin/env bash
# Download the published LaMP weights to checkpoints/; see prepare/download.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download.py" models "$@"
