#!/usr/bin/env bash
# See that there are PostgreSQL's programs, which tests start a server of their own with.
# Usage: ensure-postgres.sh
set -euo pipefail
cd "$(dirname "$0")/.."

there() {
    command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

there || scripts/apt-install.sh postgresql "no PostgreSQL to test shared tuning with is here"
