"""A worker that speaks the protocol of gemmtune.executors.worker and does what a job's WGSL says.

Words of the "WGSL", in order: what to do while compiling, then after the grant.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gemmtune.executors.fake import DEVICE
from gemmtune.job import Failure, Job, Measurement, Outcome, Versions

inbox: SimpleQueue[Any] = SimpleQueue()


def read() -> None:
    for line in sys.stdin:
        inbox.put(json.loads(line))
    os._exit(0)


def say(op: str, **content: Any) -> None:
    sys.stdout.write(json.dumps({"op": op} | content) + "\n")
    sys.stdout.flush()


def crowd(folder: Path, *, alive: bool = False) -> int:
    """How many processes were ever here, this one included, or how many of these still live."""
    (folder / str(os.getpid())).touch()
    return sum(not alive or Path(f"/proc/{file.name}").exists() for file in folder.iterdir())


def act(word: str) -> None:
    """Hang, die, touch a file, wait for one or for others; anything else is no trouble."""
    word, _, path = word.partition(":")
    if word == "touch":
        Path(path).touch()
    if word == "been":
        for folder in path.split("+"):
            crowd(Path(folder))
    while word == "been" and crowd(Path(path.split("+")[1])) < 2:
        time.sleep(0.01)
    while word in ("die-after", "wait") and not Path(path).exists():
        time.sleep(0.01)
    while word == "meet" and crowd(Path(path)) < 3:
        time.sleep(0.01)
    if word == "hang":
        time.sleep(3600)
    elif word in ("die", "die-after"):
        sys.stderr.write("thread 'main' panicked at driver.rs:7:\nthe driver fell over\n")
        sys.stderr.flush()
        os._exit(101)
    elif word == "slow":
        time.sleep(0.05)


def outcome(job: Job, word: str, began_s: float) -> Outcome:
    result: Measurement | Failure
    flag = Path(word.removeprefix("lost-once:"))
    if word.startswith("lost-once:") and not flag.exists():
        flag.touch()
        result = Failure(kind="device_lost", message="the device is gone")
    elif word == "full" or (
        word.startswith("crowded:") and crowd(Path(word.removeprefix("crowded:")), alive=True) > 2
    ):
        result = Failure(kind="out_of_memory", message="no memory left")
    elif word == "lost":
        result = Failure(kind="device_lost", message="the device is gone")
    else:
        result = Measurement(
            time_ns=1.0,
            spread=0.0,
            min_ns=1.0,
            repetitions=1,
            clock="model",
            max_abs_error=0.0,
            max_rel_error=0.0,
            tolerance=0.0,
        )
    return Outcome(job_id=job.id, result=result, verify_s=began_s, measure_s=time.monotonic())


def main() -> None:
    start = sys.argv[1] if len(sys.argv) > 1 else "fine"
    if start == "die":
        act(start)
    threading.Thread(target=read, daemon=True).start()
    if start == "refuse":
        say("error", message="there is no such adapter")
        return
    say("opening")
    inbox.get()
    began_s = time.monotonic()
    act(start)
    log = sys.argv[2] if len(sys.argv) > 2 else os.devnull
    with open(log, "a", encoding="utf-8") as openings:
        openings.write(f"{began_s} {time.monotonic()}\n")
    versions = Versions(driver="d", backend="fake", wgpu="none", compiler="none")
    say("hello", device=DEVICE.to_json(), versions=asdict(versions))
    while True:
        job = Job.from_json(inbox.get()["job"])
        compiling, running = job.kernel.wgsl.split()
        act(compiling)
        if compiling == "lost":
            say("outcome", outcome=outcome(job, compiling, time.monotonic()).to_json())
            time.sleep(0.1)  # so that whoever gives it another job loses that, too
            os._exit(0)
        sys.stdout.write("a stray line of a driver\n")
        say("ready", job=job.id)
        if inbox.get()["op"] == "drop":
            continue
        began_s = time.monotonic()
        act(running)
        result = outcome(job, running, began_s)
        say("outcome", outcome=result.to_json())
        if isinstance(result.result, Failure) and result.result.kind == "device_lost":
            os._exit(0)


main()
