"""Several tuners on one PostgreSQL server share the work, and a dead one loses only its trial."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gemmtune import Gemm
from gemmtune.device import Device
from gemmtune.search.study import Storage, Study
from gemmtune.store import Row, Store

GEMM = Gemm(m=1, n=16, k=24)
"""Kernels of one family of it compile fast: this is about rows, not about kernels."""
TRIALS = {"database": 36, "storage": 20}


def program(name: str) -> str:
    """One of PostgreSQL's programs; Debian keeps them out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which(name) or next((str(f / name) for f in reversed(folders)), None)
    if found is None and "GEMMTUNE_EXPECT_ADAPTER" in os.environ:
        pytest.fail(f"PostgreSQL's {name} is not here; scripts/ensure-postgres.sh installs it")
    return found or pytest.skip("needs PostgreSQL's programs")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty database of a server that lives as long as these tests."""
    # It refuses to be root's, and pytest's folders are nobody else's.
    owner = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="gemmtune-postgres-"))
    if owner:
        shutil.chown(folder, **owner)
    data, port = folder / "data", free_port()
    make = [program("initdb"), "-D", data, "-U", "tuner", "-A", "trust", "-E", "UTF8", "-N"]
    run = [program("postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
    try:
        subprocess.run([*make, "--locale=C"], check=True, capture_output=True, cwd=folder, **owner)
        log = (folder / "log").open("wb")
        with log, subprocess.Popen(run, stderr=log, stdout=log, cwd=folder, **owner) as postgres:
            await_server(postgres, port)
            yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
            postgres.send_signal(signal.SIGINT)
    finally:
        shutil.rmtree(folder)


def await_server(postgres: subprocess.Popen[bytes], port: int) -> None:
    ask = [program("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    until_s = time.monotonic() + 60.0
    while subprocess.run(ask, capture_output=True, check=False).returncode:
        assert postgres.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.1)


def test_many_that_begin_at_once_make_one_database(server: str) -> None:
    fresh = database(server, "fresh")
    together = threading.Barrier(8)

    def begin() -> None:
        together.wait()
        Store.open(fresh).close()

    with ThreadPoolExecutor(8) as threads:
        for begun in [threads.submit(begin) for _ in range(8)]:
            begun.result()

    with Store.open(fresh) as store:
        assert store.unused
        assert store.check() == []


def test_many_that_begin_at_once_make_one_study(server: str) -> None:
    fresh = database(server, "fresh_study")
    together = threading.Barrier(4)

    def begin() -> None:
        together.wait()
        with Storage(fresh) as storage:
            Study(storage, "one")

    with ThreadPoolExecutor(4) as threads:
        for begun in [threads.submit(begin) for _ in range(4)]:
            begun.result()

    with Storage(fresh) as storage:
        assert [study.study_name for study in storage.optuna.get_all_studies()] == ["one"]


@pytest.mark.parametrize("shared", ["database", "storage"])
def test_of_two_tuners_one_is_killed_and_no_config_is_measured_twice(
    server: str, device: Device, tmp_path: Path, shared: str
) -> None:
    trials = TRIALS[shared]
    results = database(server, f"results_{shared}")
    search = database(server, "search") if shared == "storage" else None
    command = [sys.executable, "-m", "gemmtune", "tune", "--shape", GEMM.shape, "--plain"]
    command += ["--family", "gemv", "--workers", "1", "--adapter", device.key]
    command += ["--trials", str(trials), "--db", results]
    command += ["--storage", search] if search else []
    home = os.environ | {"HOME": str(tmp_path)}

    with Store.open(results) as store:

        def rows() -> list[Row]:
            return store.measurements(device.key, GEMM.key)

        first, second = (
            subprocess.Popen(command, env=home, stderr=subprocess.PIPE, text=True) for _ in range(2)
        )
        wait_for(lambda: share(rows(), first) >= 3 and share(rows(), second) >= 3, first, second)
        first.kill()
        first.communicate()
        _, said = second.communicate()
        after = rows()

        assert second.returncode == 0, said
        claimed = Counter((row.family, row.config_key) for row in after)
        assert set(claimed.values()) == {1}
        assert {row.status for row in after} <= {"ok", "failed"}
        assert {row.owner.pid for row in after} == {first.pid, second.pid}
        lost = [row for row in after if row.status == "failed"]
        # What was on the device when its tuner died; nothing else.
        assert len(lost) <= 1
        assert {row.owner.pid for row in lost} <= {first.pid}
        assert trials <= len(after) <= trials + 1
        assert store.check() == []
    if search is not None:
        assert_the_study_has(search, after)


def assert_the_study_has(search: str, rows: list[Row]) -> None:
    """All that any tuner measured is a trial of one study, and the dead one's trial is failed."""
    with Storage(search, heartbeat_s=1, grace_s=1) as storage:
        (kept,) = storage.optuna.get_all_studies()
        study = Study(storage, kept.study_name)

        def trials(state: str) -> list[tuple[str, dict[str, Any]]]:
            return [
                (trial.user_attrs["family"], json.loads(trial.user_attrs["config"]))
                for trial in storage.optuna.get_all_trials(kept._study_id)
                if trial.state.name == state
            ]

        until_s = time.monotonic() + 60.0
        while trials("RUNNING"):
            study.changes()  # fails what shows no sign of life
            assert time.monotonic() < until_s
            time.sleep(0.2)

        measured = [(row.family, row.config.to_json()) for row in rows if row.status == "ok"]
        told = Counter(map(str, trials("COMPLETE")))
        missing = Counter(map(str, measured))
        missing.subtract(told)
        # What was kept, but not told, when its tuner died; the next run tells it.
        assert set(missing.values()) <= {0, 1}
        assert missing.total() <= 1
        assert len(trials("PRUNED")) <= 1


def database(server: str, name: str) -> str:
    """The URL of a new database."""
    subprocess.run([program("createdb"), "--maintenance-db", server, name], check=True)
    return server.replace("/postgres", f"/{name}")


def share(rows: list[Row], tuner: subprocess.Popen[str]) -> int:
    """How many configs it has measured."""
    return sum(row.status == "ok" and row.owner.pid == tuner.pid for row in rows)


def wait_for(there: Callable[[], bool], *tuners: subprocess.Popen[str]) -> None:
    while not there():
        for tuner in tuners:
            if tuner.poll() is not None:
                pytest.fail(f"a tuner ended early: {tuner.communicate()[1]}")
        time.sleep(0.05)
