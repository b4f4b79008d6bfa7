"""A process that owns a GPU device and runs the jobs its parent sends: JSON, one message a line.

    parent to worker                        worker to parent
                                            {"op": "opening"}
    {"op": "grant"}                         {"op": "hello", "device": ..., "versions": ...}
                                         or {"op": "error", "message": ...}, and it ends
    {"op": "job", "job": ..., "workers":    {"op": "opening"} where buffers are wanted
     ..., "folder": ...}
    {"op": "grant"}                         {"op": "opened"} once they are there
                                            {"op": "ready", "job": id} once compiled, or an outcome
    {"op": "grant", "idle_s": ...,          {"op": "outcome", "outcome": ...}
     "usual_ns": ...}
 or {"op": "drop"}                          nothing: the job is not wanted any more

``workers`` is how many there may be on the device, whose memory they share, and ``folder`` a place
for what all of them need; ``usual_ns`` is the `steady.Band` of references, or null.
With ``--list`` or ``--probe`` it says {"op": "devices", ...} instead and ends. With ``--answer`` it
says {"op": "opened"}, and to each {"op": "question", "question": ...} either {"op": "finding",
"answer": ...} or {"op": "finding", "failure": ...}.
It touches the device only between ``grant`` and ``hello``, ``opened`` or ``outcome``, apart from
compiling. It ends when its input does, whatever it is doing, so it never outlives its parent. What
it, or the driver, says on its way out is on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gemmtune.errors import GemmtuneError
from gemmtune.job import Failure, Job, Outcome, Policy
from gemmtune.probes import Question

if TYPE_CHECKING:
    from gemmtune.executors.local.runner import Runner
    from gemmtune.executors.local.stock import Company


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gemmtune.executors.worker")
    parser.add_argument("--selector", default="", help="which adapter")
    parser.add_argument("--policy", default="{}", help="fields of Policy as JSON")
    parser.add_argument("--list", action="store_true", help="print all adapters and end")
    parser.add_argument("--probe", type=int, help="print this adapter, with subgroup size, and end")
    parser.add_argument("--answer", action="store_true", help="answer questions about it")
    return parser.parse_args()


def _own_stdout() -> IO[str]:
    """The protocol's pipe, which from now on no stray print of a driver can reach."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return protocol


def _inbox() -> queue.SimpleQueue[dict[str, Any]]:
    """Messages as they come. The end of input ends the process at once, even amid a GPU call.

    A parent that was killed has left the folder; the others miss nothing without it.
    """
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        folder = None
        for line in sys.stdin:
            message = json.loads(line)
            folder = message.get("folder", folder)
            messages.put(message)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return messages


def _say(protocol: IO[str], op: str, **content: Any) -> None:
    protocol.write(json.dumps({"op": op} | content) + "\n")
    protocol.flush()


def _list(protocol: IO[str], probe: int | None) -> None:
    from gemmtune.executors.local import adapters

    found = adapters.adapters()
    devices = [adapters.describe(adapter) for adapter in found]
    if probe is not None:
        opened, device = adapters.open_device(found[probe], devices[probe])
        devices = [adapters.with_subgroup_size(device, opened)]
    _say(protocol, "devices", devices=[device.to_json() for device in devices])


def _answer(protocol: IO[str], inbox: queue.SimpleQueue[dict[str, Any]], selector: str) -> None:
    from gemmtune.executors.local.answers import answer
    from gemmtune.executors.local.gpu import Gpu

    gpu = Gpu(selector)
    _say(protocol, "opened")
    while True:
        finding = answer(gpu, Question.from_json(inbox.get()["question"]))
        word = "failure" if isinstance(finding, Failure) else "answer"
        _say(protocol, "finding", **{word: asdict(finding)})
        if isinstance(finding, Failure) and finding.kind == "device_lost":
            return


def _serve(
    protocol: IO[str], inbox: queue.SimpleQueue[dict[str, Any]], selector: str, policy: Policy
) -> None:
    from gemmtune.executors.local.runner import Runner
    from gemmtune.executors.local.stock import Company

    _say(protocol, "opening")
    inbox.get()
    runner = Runner(selector, policy)
    _say(
        protocol,
        "hello",
        device=runner.device.to_json(),
        versions=asdict(runner.versions),
    )
    while True:
        asked = inbox.get()
        job = Job.from_json(asked["job"])
        company = Company(workers=int(asked["workers"]), folder=Path(asked["folder"]))
        try:
            outcome = _outcome(protocol, inbox, runner, job, company)
            if outcome is None:
                continue
        except Exception as error:
            # A bug of ours, or an error of wgpu-py that nobody foresaw: it must cost one job only,
            # and the state it left behind is not to be trusted.
            traceback.print_exc()
            failure = Failure(kind="crash", message=f"{type(error).__name__}: {error}")
            _say(protocol, "outcome", outcome=Outcome(job_id=job.id, result=failure).to_json())
            return
        _say(protocol, "outcome", outcome=outcome.to_json())
        if isinstance(outcome.result, Failure) and outcome.result.kind == "device_lost":
            return


def _outcome(
    protocol: IO[str],
    inbox: queue.SimpleQueue[dict[str, Any]],
    runner: Runner,
    job: Job,
    company: Company,
) -> Outcome | None:
    if runner.stock.lacks(job, company):
        _say(protocol, "opening")
        inbox.get()
        runner.stock.make(job, company)
        _say(protocol, "opened")
    compiled = runner.compile(job)
    if isinstance(compiled, Outcome):
        return compiled
    _say(protocol, "ready", job=job.id)
    asked_s = time.perf_counter()
    grant = inbox.get()
    if grant["op"] == "drop":
        return None
    wait_s = time.perf_counter() - asked_s
    outcome = runner.run(compiled, float(grant["idle_s"]), company, grant["usual_ns"])
    return replace(outcome, wait_s=wait_s)


def main() -> None:
    """Entry point of the process."""
    # Ctrl-C is for the parent, which decides what to do with its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = _arguments()
    protocol = _own_stdout()
    inbox = _inbox()
    try:
        if arguments.list or arguments.probe is not None:
            _list(protocol, arguments.probe)
        elif arguments.answer:
            _answer(protocol, inbox, arguments.selector)
        else:
            _serve(protocol, inbox, arguments.selector, Policy(**json.loads(arguments.policy)))
    except GemmtuneError as error:
        _say(protocol, "error", message=str(error))
    # No clean-up: a driver that was lost may crash or hang in it.
    os._exit(0)


if __name__ == "__main__":
    main()
