"""Those whom peers.py compares: each prepares a problem once and is then timed in rounds."""

from __future__ import annotations

import importlib.util
import json
import math
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peer_results import CUBLAS, ORT

from gemmtune.executors import Executor
from gemmtune.job import Job, Measurement
from gemmtune.kernels.base import Kernel
from gemmtune.problem import Gemm

COLD_BYTES = 256 * 1024 * 1024
"""What the inputs of one problem take together before the first is used again."""
GRAPH_NS = 1e6
"""What the products of one of cuBLAS's graphs take together, or longer."""
WARM_NS = 50e6
"""Work between two looks at whether the device's clock still rises."""
CHECKED_ROWS = 8
"""Of cuBLAS's C, spread over all of it."""
ORT_LIMIT_S = 60.0
"""For one problem and round, preparing included; the next problem starts a new process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One round."""

    time_ns: float
    spread: float
    repetitions: int
    error: float


class ContestantError(Exception):
    """It cannot take part in this problem, for the reason given."""


Timer = Callable[[], Sample]
"""Times a problem that is ready, once."""


def is_plain(gemm: Gemm) -> bool:
    """C = A op(B), packed, operands all of one type, sums in f32: what every library has."""
    likewise = replace(gemm, trans_a=False, trans_b=False, math="ieee")
    plain = Gemm(m=gemm.m, n=gemm.n, k=gemm.k, a=gemm.a, b=gemm.a, c=gemm.a, batch=gemm.batch)
    return gemm.flops > 0 and likewise == plain


def ours(executor: Executor, gemm: Gemm, kernel: Kernel) -> Timer:
    """A kernel of gemmtune's; every element is verified in every round."""

    def measure() -> Sample:
        executor.submit(Job(id=0, gemm=gemm, kernel=kernel))
        outcome = executor.next()
        if outcome is None or not isinstance(outcome.result, Measurement):
            raise ContestantError(str(outcome and outcome.result))
        found = outcome.result
        return Sample(
            time_ns=found.time_ns,
            spread=found.spread,
            repetitions=found.repetitions,
            error=found.max_rel_error,
        )

    return measure


def cublas(gemm: Gemm) -> Timer:
    """Matmuls of PyTorch on CUDA, replayed from a CUDA graph.

    Raises:
        ContestantError: PyTorch or CUDA is missing, or the problem is not its.
    """
    if importlib.util.find_spec("torch") is None:
        raise ContestantError("PyTorch is not installed")
    import torch

    if not torch.cuda.is_available():
        raise ContestantError("PyTorch has no CUDA here")
    if not is_plain(gemm):
        raise ContestantError(f"{CUBLAS} is timed on plain products only")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.empty_cache()
    try:
        pairs = _pairs(gemm, torch)
        out = torch.matmul(*pairs[0])
        error = _error(*pairs[0], out, torch)
    except torch.cuda.OutOfMemoryError as full:
        raise ContestantError("no room on the device") from full

    replay, count = _recorded(pairs, out, torch)

    def span() -> float:
        """Nanoseconds of a product. The device works when the host begins to time, so that it never
        waits for the host.
        """
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        replay()
        begin.record()
        replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e6 / count

    def warmed() -> float:
        spans = max(3, int(WARM_NS / (2 * count * span())))
        return statistics.median(span() for _ in range(spans))

    def measure() -> Sample:
        warm = warmed()
        while (again := warmed()) < 0.99 * warm:
            warm = again
        samples = [span() for _ in range(20)]
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        spread = (high - low) / median
        return Sample(time_ns=median, spread=spread, repetitions=len(samples), error=error)

    return measure


def _recorded(pairs: list[tuple[Any, Any]], out: Any, torch: Any) -> tuple[Callable[[], None], int]:
    """A CUDA graph of matmuls that goes through all pairs, to be replayed, and how many it has.

    Launched one by one, small products take as long as the host takes to launch them.
    """

    def launch(count: int) -> None:
        for i in range(count):
            torch.matmul(*pairs[i % len(pairs)], out=out)

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(aside):  # nothing may be loaded or allocated while it is recorded
        launch(len(pairs))
        begin.record()
        launch(len(pairs))
        end.record()
    torch.cuda.current_stream().wait_stream(aside)
    end.synchronize()
    once = float(begin.elapsed_time(end)) * 1e6
    count = len(pairs) * max(1, math.ceil(GRAPH_NS / once))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(count)
    return graph.replay, count


def _pairs(gemm: Gemm, torch: Any) -> list[tuple[Any, Any]]:
    """Operands as often as no cache holds them all."""
    dtype = {"f32": torch.float32, "f16": torch.float16}[gemm.a]
    size = gemm.size_bytes("a") + gemm.size_bytes("b")

    def operand(rows: int, columns: int, *, transposed: bool) -> Any:
        shape = (gemm.batch, columns, rows) if transposed else (gemm.batch, rows, columns)
        made = torch.rand(shape, device="cuda", dtype=dtype) - 0.5
        return (made.transpose(-1, -2) if transposed else made).squeeze(0)

    return [
        (
            operand(gemm.m, gemm.k, transposed=gemm.trans_a),
            operand(gemm.k, gemm.n, transposed=gemm.trans_b),
        )
        for _ in range(min(32, max(1, -(-COLD_BYTES // size))))
    ]


def _error(a: Any, b: Any, out: Any, torch: Any) -> float:
    """Largest difference from float64 over the largest magnitude, of some rows."""
    rows = torch.linspace(0, a.shape[-2] - 1, min(CHECKED_ROWS, a.shape[-2]), device="cuda").long()
    left, found = (x.index_select(-2, rows).double() for x in (a, out))
    worst = most = 0.0
    for first in range(0, b.shape[-1], 4096):
        right = left @ b[..., first : first + 4096].double()
        worst = max(worst, float((found[..., first : first + 4096] - right).abs().max()))
        most = max(most, float(right.abs().max()))
    return worst / most if most else 0.0


class OnnxRuntime:
    """onnxruntime-webgpu in a process of its own, which serves problem after problem."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # A file, for nobody would empty a pipe in time; it is gone when this object is.
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115

    def prepare(self, gemm: Gemm) -> Timer:
        """See `Timer`; the process prepares in the first round.

        Raises:
            ContestantError: a package is missing, or the problem is not its.
        """
        missing = [n for n in ("onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
        if missing:
            raise ContestantError(f"{' and '.join(missing)} not installed")
        if not is_plain(gemm) or gemm.trans_a or gemm.trans_b:
            raise ContestantError(f"{ORT} is timed on plain products only, not transposed")
        return lambda: self._ask(f"{gemm.shape} {gemm.a}")

    def _ask(self, line: str) -> Sample:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            said = self._lines.get(timeout=ORT_LIMIT_S)
        except (queue.Empty, OSError) as error:
            self.close()
            raise ContestantError(f"no answer within {ORT_LIMIT_S:g} s") from error
        if not said:
            self.close()
            self._stderr.seek(0)
            words = " ".join(self._stderr.read()[-300:].split())
            raise ContestantError(f"its process died: {words}")
        found = json.loads(said)
        if "failure" in found:
            raise ContestantError(found["failure"])
        return Sample(
            time_ns=found["ns"],
            spread=found["spread"],
            repetitions=found["samples"],
            error=found["error"],
        )

    def _start(self) -> None:
        script = Path(__file__).with_name("onnxruntime_webgpu.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        stdout, lines = self._process.stdout, queue.SimpleQueue[str]()
        assert stdout is not None

        def read() -> None:
            for line in stdout:
                if line.startswith("{"):  # onnxruntime says things there, too
                    lines.put(line)
            lines.put("")

        self._lines = lines
        threading.Thread(target=read, daemon=True).start()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
