#!/usr/bin/env bash
# Put the published word vectors (our_vab_*) into glove/: see prepare/download.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/download.py" glove "$@"
