"""Every time that a device was measured to take, in little space: a file of text, packed with xz.

    python benchmarks/times.py POOL [POOL ...] --output times.tsv.xz

A line of family and config as JSON is followed by one for each problem: shape, dtypes, nanoseconds.
Only of today's templates and the usual policy; of several times of a config on a problem the least.
"""

from __future__ import annotations

import argparse
import lzma
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from choices import device_in
from pool import Text, whole

from gemmtune import Gemm
from gemmtune.generators import generator_hash
from gemmtune.kernels import FAMILIES
from gemmtune.schema import USUAL_POLICY, read_only_uri
from gemmtune.shapes import parse_dtype

TODAY = """
SELECT p.key, m.family, m.config, m.time_ns, m.generator_hash FROM measurements m
JOIN devices d ON d.id = m.device_id JOIN problems p ON p.id = m.problem_id
WHERE m.status = 'ok' AND d.key = ? AND m.policy = ? AND p.kind LIKE '%:nn' AND p.batch = 1
"""


def write(database: Path, device_key: str, output: Path) -> int:
    """All of a device; how many."""
    best: dict[tuple[str, str, str], float] = {}
    with closing(sqlite3.connect(read_only_uri(database), uri=True)) as connection:
        for key, family, config, time_ns, template in connection.execute(
            TODAY, (device_key, USUAL_POLICY)
        ):
            if family in FAMILIES and template == generator_hash(family):
                name = (family, config, key)
                best[name] = min(time_ns, best.get(name, math.inf))
    output.write_bytes(pack(best))
    return len(best)


def pack(times: Mapping[tuple[str, str, str], float]) -> bytes:
    """The file of nanoseconds by family, config and `Gemm.key`."""
    lines, last = [], ("", "")
    for (family, config, key), time_ns in sorted(times.items()):
        if (family, config) != last:
            last = family, config
            lines.append(f"{family}\t{config}\n")
        shape, dtypes, _ = key.split(":")
        lines.append(f"{shape}\t{dtypes}\t{time_ns:.0f}\n")
    return lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)


def read(path: Path, dtype: str) -> Iterator[tuple[Gemm, Text, float]]:
    """Those with operands of one dtype: problem, config, nanoseconds."""
    a, b, c, acc = wanted = parse_dtype(dtype)
    name = ("", "")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) == 2:
                name = cells[0], cells[1]
            elif cells[1] == ",".join(wanted):
                yield Gemm.parse(cells[0], a=a, b=b, c=c, acc=acc), name, float(cells[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pool", type=Path, nargs="+", help="databases, may be packed as .db.xz")
    parser.add_argument("--output", type=Path, required=True, help="file to write, as times.tsv.xz")
    parser.add_argument("--device", help="key (default: the H100, or the only one there is)")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        database = whole(args.pool, Path(folder))
        number = write(database, args.device or device_in(database), args.output)
    print(f"{args.output}: {number} times, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
