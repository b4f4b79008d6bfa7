#!/usr/bin/env bash
# Make the virtual environment with gemmtune, its tuning extra and the development tools in it.
# Usage: ensure-venv.sh FOLDER   (the environment variable PYTHON names another interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    scripts/apt-install.sh python3 "there is no $python here"
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    found=$("$python" -c 'import platform; print(platform.python_version())')
    echo "gemmtune: $python is Python $found, 3.11 or later is needed: make PYTHON=python3.11 ..." >&2
    exit 1
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    # Debian keeps what venv needs in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null ||
        scripts/apt-install.sh python3-venv "Python cannot make virtual environments"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

# Older pips have no --group, so the list is read out of pyproject.toml, its only home.
"$venv/bin/python" - >"$venv/dev-requirements.txt" <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]


def listed(name):
    for entry in groups[name]:
        if isinstance(entry, dict):
            yield from listed(entry["include-group"])
        else:
            yield entry


print("\n".join(listed("dev")))
PYTHON
echo "gemmtune: installing into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --editable '.[tune]' --requirement "$venv/dev-requirements.txt"
