#!/usr/bin/env bash
# Measures what selection.py judges, on the adapter of this machine: tunes the core set and, for
# comparison only, shapes that never ship; then times what would be selected for all of them. About
# 9 minutes with the usual budgets; each step goes on where it stopped. On a device with matrix
# units, `gemmtune unlock` comes first.
# Usage: benchmarks/measure-selection.sh FOLDER [BUDGET] [PORTFOLIO_SECONDS] [DTYPE]
# Variables, each with what it is otherwise:
#   SHAPES  the shapes that never ship (benchmarks/shapes/heldout.txt)
#   TUNED   a file of shapes to tune (the preset core)
#   KNOWN   databases of tuned shapes, and of their configs' times, instead of tuning any
#   MOST    configs to time on each shape, most useful first (all)
#   CROSS   seconds for timing the winners on the tuned shapes, too, where they were not timed (with
#           KNOWN 0, otherwise it is in PORTFOLIO_SECONDS)
set -euo pipefail
folder=${1:?usage: benchmarks/measure-selection.sh FOLDER [BUDGET] [PORTFOLIO_SECONDS] [DTYPE]}
budget=${2:-5s}
seconds=${3:-200}
dtype=${4:-f16}
gemmtune=${GEMMTUNE:-gemmtune}
python=${PYTHON:-python}
tuned=${TUNED:-}
shapes=${SHAPES:-benchmarks/shapes/heldout.txt}
known=${KNOWN:-}
what=(--preset core)
if [[ $tuned ]]; then what=(--shapes-file "$tuned"); fi
choices=(--dtype "$dtype" --shapes-file "$shapes")
if [[ ${MOST:-} ]]; then choices+=(--most "$MOST"); fi
mkdir -p "$folder"

core=$folder/core.db
if [[ $known ]]; then
    core=$folder/known.db
    choices+=(--of file)
    # shellcheck disable=SC2086  # several files
    if [[ ! -e $core ]]; then "$gemmtune" db merge --db "$core" $known; fi
else
    "$gemmtune" tune "${what[@]}" --dtype "$dtype" --budget "$budget" --db "$core" --plain
fi
reference=$folder/$(basename "$shapes" .txt).db
if [[ ! -e $reference ]]; then
    # Its rows come first in the search, as they would for whoever tunes such a shape.
    "$gemmtune" db merge --db "$reference" "$core"
fi
"$gemmtune" tune --shapes-file "$shapes" --dtype "$dtype" --budget "$budget" \
    --db "$reference" --plain
"$python" benchmarks/portfolio.py --db "$folder/portfolio.db" --tuned "$core" \
    --known "$reference" "${choices[@]}" --limit-s "$seconds"
known_times=("$core" "$folder/portfolio.db")
if [[ ${CROSS:-0} != 0 ]]; then
    "$python" benchmarks/portfolio.py --db "$folder/cross.db" --tuned "$core" \
        --known "$reference" --dtype "$dtype" --of tuned --limit-s "$CROSS"
    known_times+=("$folder/cross.db")
fi
"$python" benchmarks/selection.py --tuned "${known_times[@]}" --reference "$reference" \
    --times "$folder/portfolio.db" --shapes-file "$shapes" --dtype "$dtype" --json "$folder/selection.json"
