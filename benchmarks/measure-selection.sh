#!/usr/bin/env bash
# Measures what selection.py judges, on the adapter of this machine: tunes the core set and, for
# comparison only, shapes that never ship; then times what would be selected for all of them. About
# 9 minutes with the usual budgets; each step goes on where it stopped. On a device with matrix
# units, `gemmtune unlock` comes first.
# Usage: benchmarks/measure-selection.sh FOLDER [BUDGET] [PORTFOLIO_SECONDS] [DTYPE]
set -euo pipefail
folder=${1:?usage: benchmarks/measure-selection.sh FOLDER [BUDGET] [PORTFOLIO_SECONDS] [DTYPE]}
budget=${2:-5s}
seconds=${3:-200}
dtype=${4:-f16}
gemmtune=${GEMMTUNE:-gemmtune}
python=${PYTHON:-python}
# Others than the usual, e.g. few and small ones to try the script.
tuned=${TUNED:-}
shapes=${SHAPES:-benchmarks/shapes/untuned.txt}
what=(--preset core)
if [[ $tuned ]]; then what=(--shapes-file "$tuned"); fi
mkdir -p "$folder"

"$gemmtune" tune "${what[@]}" --dtype "$dtype" --budget "$budget" --db "$folder/core.db" --plain
if [[ ! -e $folder/untuned.db ]]; then
    # Its rows come first in the search, as they would for whoever tunes such a shape.
    "$gemmtune" db merge --db "$folder/untuned.db" "$folder/core.db"
fi
"$gemmtune" tune --shapes-file "$shapes" --dtype "$dtype" --budget "$budget" \
    --db "$folder/untuned.db" --plain
"$python" benchmarks/portfolio.py --db "$folder/portfolio.db" --tuned "$folder/core.db" \
    --known "$folder/untuned.db" --dtype "$dtype" --shapes-file "$shapes" --limit-s "$seconds"
"$python" benchmarks/selection.py --tuned "$folder/core.db" --reference "$folder/untuned.db" \
    --times "$folder/portfolio.db" --shapes-file "$shapes" --dtype "$dtype" --json "$folder/selection.json"
