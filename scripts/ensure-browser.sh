#!/usr/bin/env bash
# See that there are a Chromium and a Node.js for the tests of gemmtune.js; install what is missing.
# Usage: ensure-browser.sh   (elsewhere than in continuous integration, only says what is missing)
set -euo pipefail
cd "$(dirname "$0")/.."

for pair in chromium:chromium node:nodejs; do
    command -v "${pair%:*}" >/dev/null && continue
    if [ -n "${CI:-}" ]; then
        scripts/apt-install.sh "${pair#*:}" "there is no ${pair%:*}"
    else
        echo "gemmtune: there is no ${pair%:*}, so its tests are skipped: apt install ${pair#*:}"
    fi
done
