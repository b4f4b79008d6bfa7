#!/usr/bin/env bash
# Install one Debian package, or say in one line why it cannot be done here.
# Usage: apt-install.sh PACKAGE REASON
set -euo pipefail

package=$1
reason=$2

if ! command -v apt-get >/dev/null; then
    echo "gemmtune: $reason, and there is no apt-get: install what your system calls $package" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "gemmtune: $reason: run 'sudo apt-get install $package', then make again" >&2
    exit 1
fi

apt() {
    # "${a[@]+...}": an empty array is an unbound variable to older bash.
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

echo "gemmtune: $reason: installing the Debian package $package"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One unreachable source makes an update fail though the package may be had all the same.
if ! { apt update || true; apt install -y --no-install-recommends "$package"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "gemmtune: apt-get could not install $package; its last lines are above" >&2
    exit 1
fi
