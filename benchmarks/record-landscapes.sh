#!/usr/bin/env bash
# Records the landscapes that search_efficiency.py searches, on the adapter of this machine: every
# config of a part of each space, so that neighbours of a config are there too. A budget per
# landscape may be given; running it again goes on.
# Usage: benchmarks/record-landscapes.sh FOLDER [BUDGET] [NAME...]
set -euo pipefail
folder=${1:?usage: benchmarks/record-landscapes.sh FOLDER [BUDGET] [NAME...]}
budget=${2:-10m}
names=("${@:3}")
gemmtune=${GEMMTUNE:-gemmtune}
mkdir -p "$folder"

record() {
    local name=$1
    if ((${#names[@]})) && [[ ! " ${names[*]} " == *" $name "* ]]; then return; fi
    "$gemmtune" record "$folder/$name.json.gz" --budget "$budget" "${@:2}"
}

record tiled-f32-2048 --shape 2048x2048x2048 --family tiled \
    --where group_m=8,dims=static,vec=4,lanes_n=8,split_k=1
record coopmat-f16-4096 --shape 4096x4096x4096 --dtype f16 --family coopmat \
    --where pad=8,group_m=8,dims=static,checked=false,order=stream_a,turns=1
record coopmat-f16-16x4096 --shape 16x4096x4096 --dtype f16 --family coopmat \
    --where split_k=1,subgroups_k=1
record coopmat-f16-197x3072 --shape 197x3072x768 --dtype f16 --family coopmat \
    --where pad=8,group_m=1,dims=static,order=stream_a,turns=1,a_from=workgroup,b_from=workgroup,split_k=1,subgroups_k=1
record coopmat-f16-1024x4096 --shape 1024x1024x4096 --dtype f16 --family coopmat --sample 1600
record tiled-f32-197x3072 --shape 197x3072x768 --family tiled \
    --where group_m=1,dims=static,vec=4,lanes_n=8,split_k=1
