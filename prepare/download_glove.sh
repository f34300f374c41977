#!/usr/bin/env bash
# Download the published word vectors (our_vab_*) to glove/; see prepare/download.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download.py" glove "$@"
