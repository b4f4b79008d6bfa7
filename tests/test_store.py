"""The store: journal, reading, merging, other processes, and files that are not as they should."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.pool import Pool

from databases import (
    DEVICE,
    GEMM,
    OWNER,
    POLICY,
    add,
    begin,
    config_of,
    files_beside,
    measurement,
    outcome,
    versions_of,
)
from gemmtune.errors import (
    ConfigError,
    MissingExtraError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreVersionError,
)
from gemmtune.generators import generator_hash
from gemmtune.job import FAILURE_KINDS, Failure, Measurement, Outcome, Policy
from gemmtune.kernels.base import Needs
from gemmtune.lookup import lookup
from gemmtune.probes import Answer
from gemmtune.problem import Gemm
from gemmtune.schema import SCHEMA
from gemmtune.store import BestInfo, Store
from strategies import LAVAPIPE, gemms

FIXTURES = Path(__file__).parent / "fixtures"
TESTS = Path(__file__).parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, busy_timeout_s=0.1) as opened:
        yield opened


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder with a database in it in which this process may not write, even when run by root."""
    folder = Path(tempfile.mkdtemp())
    with Store.open(folder / "tuning.db") as store:
        add(store, 100.0)
    (folder / "tuning.db").chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def edit(path: Path, statement: str) -> None:
    """Change a closed database behind the store's back."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute(statement)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def findings_in(path: Path) -> list[str]:
    """What opening or checking says is wrong."""
    try:
        with Store.open(path, read_only=True) as store:
            return store.check()
    except StoreCorruptError as error:
        return [str(error)]


def python(code: str, *values: object) -> subprocess.Popen[str]:
    """A process that runs ``code``; ``values`` are its arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, values)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )


# The journal


def test_begin_is_on_disk_before_anything_runs(store: Store, path: Path) -> None:
    number = begin(store)

    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT id, status, owner_pid FROM measurements").fetchall()
    connection.close()
    assert rows == [(number, "running", os.getpid())]


def test_begin_refuses_what_is_running_or_was_measured(store: Store) -> None:
    number = begin(store)
    assert number is not None
    assert begin(store) is None
    store.finish(number, outcome(measurement(100.0)))
    assert begin(store) is None


def test_begin_measures_again_with_another_template_or_shader_compiler(store: Store) -> None:
    add(store, 100.0)
    assert begin(store, template="changed") is not None
    assert begin(store, versions=replace(versions_of(DEVICE), compiler="naga 30")) is not None
    assert begin(store, versions=replace(versions_of(DEVICE), gemmtune="9")) is None


def test_finish_fills_the_row(store: Store) -> None:
    number = add(store, 100.0)
    (row,) = store.measurements(DEVICE.key, GEMM.key)
    assert (row.id, row.status, row.time_ns) == (number, "ok", 100.0)
    assert row.config == config_of(0)
    assert row.result == measurement(100.0)
    assert (row.compile_s, row.verify_s, row.measure_s) == (0.5, 0.25, 0.125)
    assert row.versions == versions_of(DEVICE)
    assert row.owner == OWNER
    assert row.finished_at is not None
    assert row.started_at <= row.finished_at <= row.deadline


def test_finish_says_when_the_row_was_taken_back(store: Store) -> None:
    number = begin(store)
    assert number is not None
    store.abandon([number])
    assert not store.finish(number, outcome(measurement(1.0)))


@pytest.mark.parametrize("time_ns", [math.nan, math.inf, 0.0, -1.0])
def test_finish_refuses_a_time_that_is_none(store: Store, time_ns: float) -> None:
    number = begin(store)
    assert number is not None
    with pytest.raises(ValueError, match="time"):
        store.finish(number, outcome(measurement(time_ns)))
    assert store.measurements(DEVICE.key, GEMM.key)[0].status == "running"


def test_failure_messages_of_any_content_are_kept_readable(store: Store) -> None:
    add(store, Failure(kind="compile", message="a\0b\udcff" + "x" * 10000))
    (row,) = store.measurements(DEVICE.key, GEMM.key)
    assert isinstance(row.result, Failure)
    assert row.result.message.startswith("a b?x")
    assert row.result.message.endswith("[cut]")


def test_abandon_takes_back_running_rows_only(store: Store) -> None:
    done, running = add(store, 100.0), begin(store, config_of(1))
    assert running is not None
    assert store.abandon([done, running]) == 1
    assert [row.id for row in store.measurements(DEVICE.key, GEMM.key)] == [done]
    assert begin(store, config_of(1)) is not None


def test_numbers_of_deleted_rows_do_not_come_back(store: Store) -> None:
    first = begin(store)
    assert first is not None
    store.abandon([first])
    second = begin(store)
    assert second is not None
    assert second > first


def test_reap_marks_rows_of_dead_processes_and_no_others(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    dead = replace(OWNER, pid=child.pid)
    restarted = replace(OWNER, start=OWNER.start[:-1] + "x") if OWNER.start else dead
    mine = begin(store, config_of(0))
    lost = [begin(store, config_of(1), owner=dead), begin(store, config_of(2), owner=restarted)]
    for number in (mine, *lost):
        assert number is not None
        store.grant(number)

    assert [row.id for row in store.reap()] == lost

    rows = {row.id: row for row in store.measurements(DEVICE.key, GEMM.key)}
    assert mine is not None
    assert rows[mine].status == "running"
    for number in lost:
        assert number is not None
        result = rows[number].result
        assert isinstance(result, Failure)
        assert result.kind == "crash"
        assert "gemmtune db retry" in result.message
    assert store.reap() == []
    assert begin(store, config_of(1)) is None


def test_what_had_not_got_the_device_when_its_tuner_died_runs_again_once(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    dead = replace(OWNER, pid=child.pid)
    first = begin(store, owner=dead)

    assert [row.id for row in store.reap()] == [first]
    assert store.measurements(DEVICE.key, GEMM.key) == []
    second = begin(store, owner=dead)
    assert second is not None
    assert [row.id for row in store.reap()] == [second]

    (row,) = store.measurements(DEVICE.key, GEMM.key)
    assert isinstance(row.result, Failure)
    assert "compiling, for the second time" in row.result.message
    assert begin(store) is None
    assert store.retry() == 1
    begin(store, owner=dead)
    store.reap()
    assert store.measurements(DEVICE.key, GEMM.key) == []


def test_reap_waits_for_the_deadline_of_other_hosts(store: Store) -> None:
    begin(store, owner=replace(OWNER, host="elsewhere"), deadline_s=60.0)
    assert store.reap() == []
    assert len(store.reap(now=datetime.now(UTC) + timedelta(seconds=61))) == 1


def test_a_late_outcome_overrules_the_reaper(store: Store) -> None:
    number = begin(store, owner=replace(OWNER, host="elsewhere"), deadline_s=-1.0)
    assert number is not None
    store.grant(number)
    store.reap()
    assert store.finish(number, outcome(measurement(100.0)))
    assert store.best()[0].time_ns == 100.0


def test_retry_takes_back_failures_of_the_kinds_named(store: Store) -> None:
    add(store, Failure(kind="crash", message=""), config_of(0))
    add(store, Failure(kind="timeout", message=""), config_of(1))
    add(store, 100.0, config_of(2))
    assert store.retry(device_key="another") == 0
    assert store.retry() == 1
    assert store.retry(kinds=["timeout"], problem_key=GEMM.key) == 1
    assert begin(store, config_of(0)) is not None


def test_owner_knows_whether_it_is_alive() -> None:
    assert OWNER.alive() is True
    assert replace(OWNER, host="elsewhere").alive() is None


# Reading


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "tuning.db") as opened:
        yield opened


floats = st.floats(min_value=0.0, allow_nan=False)
results = st.one_of(
    st.builds(
        Measurement,
        time_ns=st.floats(min_value=1e-3, max_value=1e18),
        spread=floats,
        min_ns=floats,
        repetitions=st.integers(1, 10**6),
        clock=st.sampled_from(("gpu", "host", "model")),
        max_abs_error=floats,
        max_rel_error=floats,
        tolerance=floats,
    ),
    st.builds(
        Failure,
        kind=st.sampled_from(FAILURE_KINDS),
        message=st.text().map(lambda text: text.replace("\0", "")),
    ),
)


@settings(max_examples=30, deadline=None)
@given(gemm=gemms(), result=results, seconds=st.floats(0.0, 1e6))
def test_rows_come_back_as_they_were_written(
    shared: Store, gemm: Gemm, result: Measurement | Failure, seconds: float
) -> None:
    template = f"{time.monotonic_ns():x}"  # one row per example
    number = begin(shared, gemm=gemm, template=template)
    assert number is not None
    sent = Outcome(job_id=number, result=result, compile_s=seconds, verify_s=1.0, measure_s=2.0)
    assert shared.finish(number, sent)

    (row,) = shared.measurements(DEVICE.key, gemm.key, since_id=number - 1)

    assert row.result == result
    assert (row.family, row.config, row.seed) == ("naive", config_of(0), 7)
    assert (row.compile_s, row.verify_s, row.measure_s) == (seconds, 1.0, 2.0)
    assert (row.generator_hash, row.policy) == (template, POLICY.key)
    assert gemm.key in {stored.key for stored in shared.problems(DEVICE.key)}
    assert DEVICE in shared.devices()


def test_best_is_the_fastest_row_and_ties_break_by_config(store: Store) -> None:
    add(store, 200.0, config_of(0))
    add(store, 100.0, config_of(9))
    add(store, 100.0, config_of(8))
    add(store, Failure(kind="compile", message=""), config_of(1))
    add(store, 50.0, device=replace(DEVICE, driver="581"))
    (row,) = store.best(DEVICE.key)
    assert row.config == min(config_of(8), config_of(9), key=lambda config: config.key)
    assert len(store.best()) == 2
    assert store.best(DEVICE.key, "another") == []


def test_times_under_different_policies_are_never_one_best(store: Store) -> None:
    hot = replace(POLICY, cache="hot")
    add(store, 100.0, config_of(0))
    add(store, 50.0, config_of(1), policy=hot)
    add(store, 40.0, config_of(2), policy=hot)

    assert [(row.policy, row.time_ns) for row in store.best(DEVICE.key, GEMM.key)] == [
        (POLICY.key, 100.0),
        (hot.key, 40.0),
    ]
    (problem,) = store.info().devices[0].problems
    assert problem.best == (
        BestInfo(policy=POLICY.key, time_ns=100.0),
        BestInfo(policy=hot.key, time_ns=40.0),
    )
    assert store.check() == []


def test_what_a_kernel_needs_is_in_its_row(store: Store, path: Path) -> None:
    needs = Needs(
        features=("subgroup",),
        subgroup_size=32,
        workgroup_storage_bytes=4096,
        invocations_per_workgroup=128,
        workspace_bytes=0,
        unchecked=False,
    )
    begin(store, config_of(0), needs=needs)
    begin(store, config_of(1))
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("SELECT needs FROM measurements ORDER BY id")]
    connection.close()
    assert json.loads(found[0]) == needs.to_json() | {"features": ["subgroup"]}
    assert found[1] is None


def test_since_id_leaves_out_what_was_seen(store: Store) -> None:
    first, second = add(store, 1.0, config_of(0)), add(store, 2.0, config_of(1))
    found = store.measurements(DEVICE.key, GEMM.key, since_id=first)
    assert [row.id for row in found] == [second]
    found = store.measurements(DEVICE.key, GEMM.key, but=[second])
    assert [row.id for row in found] == [first]


def test_rows_are_demoted_in_words_and_kept(store: Store) -> None:
    add(store, 100.0)
    (row,) = store.measurements(DEVICE.key, GEMM.key)
    template, versions = generator_hash("naive"), versions_of(DEVICE)
    assert row.demotions(versions, template, POLICY.key) == ()
    now = replace(versions, driver="590", wgpu="0.33")
    assert row.demotions(now, "new", "other") == (
        "driver was 580.1, is 590",
        "wgpu was 0.32.0, is 0.33",
        f"template was {template}, is new",
        f"measurement policy was {POLICY.key}, is other",
    )


def test_a_config_of_an_unknown_family_is_told_when_it_is_read(store: Store, path: Path) -> None:
    add(store, 100.0)
    edit(path, "UPDATE measurements SET family = 'later'")
    (row,) = store.measurements(DEVICE.key, GEMM.key)
    with pytest.raises(ConfigError, match="no family 'later'"):
        _ = row.config


def test_info_counts_everything(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(0))
    add(store, Failure(kind="timeout", message=""), config_of(1))
    add(store, Failure(kind="compile", message=""), config_of(2))
    add(store, Failure(kind="compile", message=""), config_of(3))
    begin(store, config_of(4))
    info = store.info()
    assert (info.ok, info.failed, info.running) == (1, 3, 1)
    assert info.failures == (("compile", 2), ("timeout", 1))
    assert (info.where, info.schema) == (str(path), SCHEMA)
    assert info.size_bytes > 0
    (device,) = info.devices
    (problem,) = device.problems
    assert (device.key, problem.key, problem.best) == (
        DEVICE.key,
        GEMM.key,
        (BestInfo(policy=POLICY.key, time_ns=100.0),),
    )


# Checking


def test_check_finds_nothing_in_a_sound_database(store: Store) -> None:
    add(store, 100.0)
    add(store, Failure(kind="compile", message=""), config_of(1))
    begin(store, config_of(2))
    assert store.check() == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE devices SET json = '{'", "is not readable"),
        ("UPDATE devices SET key = 'x'", "device x holds the values of"),
        ("UPDATE problems SET json = '{}'", "is not readable"),
        ("UPDATE problems SET m = 3", "holds the values of"),
        ("UPDATE measurements SET config = 'x'", "is not JSON"),
        ("UPDATE measurements SET config = '{\"tile\":1}'", "config has"),
        ("UPDATE measurements SET family = 'later'", "no family 'later'"),
        ("UPDATE measurements SET config_key = 'x'", "its key says x"),
        ("UPDATE measurements SET time_ns = NULL", "it is ok and has no time"),
        ("UPDATE measurements SET time_ns = -1", "it is ok and has no time"),
        ("UPDATE measurements SET status = 'lost'", "its status is 'lost'"),
        ("UPDATE measurements SET device_id = 99", "points at a missing row of devices"),
        (
            "UPDATE measurements SET status = 'running', time_ns = NULL, owner_start = ''"
            ", owner_host = 'elsewhere', deadline = '2020'",
            "which is gone",
        ),
    ],
)
def test_check_names_each_kind_of_damage(path: Path, damage: str, finding: str) -> None:
    with Store.open(path) as store:
        add(store, 100.0)
    edit(path, damage)
    with Store.open(path, read_only=True) as store:
        assert any(finding in line for line in store.check()), store.check()


def test_check_accepts_configs_of_older_templates(path: Path) -> None:
    with Store.open(path) as store:
        add(store, 100.0, template="older")
    edit(path, "UPDATE measurements SET config = '{\"tile\":1}'")
    with Store.open(path) as store:
        assert store.check() == []


def test_check_notices_a_view_that_was_tampered_with(path: Path) -> None:
    with Store.open(path) as store:
        add(store, 100.0)
        slow = add(store, 200.0, config_of(1))
    edit(path, "DROP VIEW best")
    edit(
        path,
        "CREATE VIEW best AS SELECT id AS measurement_id, device_id, problem_id, '' AS device, "
        f"'' AS problem, policy, time_ns FROM measurements WHERE id = {slow}",
    )
    with Store.open(path) as store:
        assert store.check() == [f"best shows measurement {slow} where 1 is the fastest"]


# Merging


def test_merge_takes_the_newer_measurement_of_a_row_that_both_have(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    with Store.open(one) as source, Store.open(two) as target:
        again = add(source, 100.0, config_of(0))
        add(source, 105.0, config_of(1))
        target.merge(one)
        assert source.finish(again, outcome(measurement(110.0)))

        assert target.merge(one).measurements == 0
        assert target.best(DEVICE.key)[0].config == config_of(1)
        source.merge(two)
        assert source.best(DEVICE.key)[0].config == config_of(1)
        assert target.check() == []


def test_a_store_is_unused_until_something_is_measured(store: Store) -> None:
    assert store.unused
    add(store, 100.0)
    assert not store.unused


def test_merge_keeps_both_histories_and_is_idempotent(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    other = replace(DEVICE, driver="581")
    with Store.open(two) as source:
        add(source, 50.0, config_of(0))  # measured by both
        add(source, 70.0, config_of(1), device=other)
        begin(source, config_of(2))
    before = two.read_bytes()
    with Store.open(one) as target:
        add(target, 100.0, config_of(0))
        report = target.merge(two)
        assert (report.devices, report.problems) == (1, 0)
        assert (report.measurements, report.present, report.running) == (2, 0, 1)
        again = target.merge(two)
        assert (again.measurements, again.present, again.running) == (0, 2, 1)
        assert sorted(row.time_ns or 0 for row in target.measurements(DEVICE.key, GEMM.key)) == [
            50.0,
            100.0,
        ]
        assert target.best(DEVICE.key)[0].time_ns == 50.0
        assert begin(target, config_of(1), device=other) is None
        assert target.check() == []
    assert two.read_bytes() == before
    assert files_beside(two) == {"one.db", "two.db"}


def test_merge_of_the_fastest_leaves_out_slower_and_failed_rows(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    with Store.open(two) as source:
        for index, time_ns in enumerate((90.0, 50.0, 70.0)):
            add(source, time_ns, config_of(index))
        begin(source, config_of(3))
    with Store.open(one) as target:
        report = target.merge(two, top=2)

        assert (report.measurements, report.slower) == (2, 2)
        times = [row.time_ns for row in target.measurements(DEVICE.key, GEMM.key)]
        assert sorted(filter(None, times)) == [50.0, 70.0]
        assert target.check() == []


def test_merge_of_the_fastest_takes_as_many_of_each_way_of_timing(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    with Store.open(two) as source:
        for index, time_ns in enumerate((90.0, 50.0)):
            add(source, time_ns, config_of(index))
            add(source, time_ns / 2, config_of(index), policy=Policy(cache="hot"))
    with Store.open(one) as target:
        target.merge(two, top=1)

        rows = target.measurements(DEVICE.key, GEMM.key)
        assert sorted((row.policy[:5], row.time_ns) for row in rows) == [
            ("2/col", 50.0),
            ("2/hot", 25.0),
        ]


def test_merge_of_the_fastest_keeps_what_lookups_predict_from(tmp_path: Path) -> None:
    other = replace(GEMM, m=512)
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    with Store.open(two) as source:
        for gemm, times in ((GEMM, (50.0, 70.0, 90.0)), (other, (900.0, 700.0, 800.0))):
            for index, time_ns in enumerate(times):
                add(source, time_ns, config_of(index), gemm=gemm)
        half = replace(GEMM, a="f16", b="f16")
        for index, time_ns in enumerate((60.0, 40.0, 30.0)):
            add(source, time_ns, config_of(index), gemm=half)
    with Store.open(one) as target:
        assert target.merge(two, top=1).slower == 4
        # The third config leads with other dtypes only, where the first two do not.
        kept = {
            gemm: sorted(row.time_ns or 0.0 for row in target.measurements(DEVICE.key, gemm.key))
            for gemm in (GEMM, other, half)
        }
        assert kept == {GEMM: [50.0, 70.0], other: [700.0, 900.0], half: [30.0]}
    for gemm in (replace(GEMM, m=128), replace(GEMM, m=300), other):
        found = [lookup(gemm, DEVICE.key, path=path) for path in (one, two)]
        assert len({(each.config, each.time_ns) for each in found}) == 1


def test_merge_refuses_itself_and_changes_nothing_when_the_source_is_bad(
    store: Store, path: Path, tmp_path: Path
) -> None:
    add(store, 100.0)
    bad = tmp_path / "bad.db"
    bad.write_bytes(random.Random(1).randbytes(8192))
    with pytest.raises(StoreCorruptError, match=r"bad\.db"):
        store.merge(bad)
    with pytest.raises(StoreError, match=r"nothing\.db"):
        store.merge(tmp_path / "nothing.db")
    with pytest.raises(StoreError, match="the database to merge into"):
        store.merge(path)
    assert store.info().ok == 1


# Several processes


def test_killed_writers_leave_a_sound_database(path: Path) -> None:
    chance = random.Random(0)
    writer = """
        import sys
        from databases import add, begin, config_of
        from gemmtune.store import Store
        with Store.open(sys.argv[1]) as store:
            for number in range(10**6):
                add(store, 1.0 + number, template=f"{sys.argv[2]}-{number}")
                if not number:
                    print("writing", flush=True)
    """
    kept = 0
    for attempt in range(4):
        process = python(writer, path, attempt)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(chance.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Store.open(path) as store:
            assert len(store.reap()) <= 1
            assert store.check() == []
            assert store.info().ok > kept
            kept = store.info().ok


def test_two_writers_make_one_database_and_measure_nothing_twice(path: Path) -> None:
    writer = """
        import sys
        from databases import begin, config_of, measurement, outcome
        from gemmtune.store import Store
        taken = 0
        with Store.open(sys.argv[1]) as store:
            for number in range(40):
                row = begin(store, config_of(number))
                if row is not None:
                    taken += 1
                    store.finish(row, outcome(measurement(1.0 + number)))
        print(taken)
    """
    processes = [python(writer, path) for _ in range(2)]
    taken = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(taken) == 40
    with Store.open(path) as store:
        assert store.info().ok == 40
        assert store.check() == []
    assert files_beside(path) == {"tuning.db"}


def test_readers_see_what_is_committed_while_a_writer_is_open(store: Store, path: Path) -> None:
    add(store, 100.0)
    with Store.open(path, read_only=True) as reader:
        assert reader.info().ok == 1
        add(store, 90.0, config_of(1))
        assert reader.info().ok == 2


def test_merge_takes_the_newer_description_of_a_device(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    probed = replace(DEVICE, resident_workgroup_bytes=49152)
    with Store.open(one) as older:
        add(older, 100.0)
    with Store.open(two) as newer:
        add(newer, 100.0, config_of(1), device=probed)
    with Store.open(one) as target:
        target.merge(two)
        assert target.devices() == [probed]
    with Store.open(one) as target:
        add(target, 100.0, config_of(2))
        target.merge(two)
        assert target.devices() == [DEVICE]


# What was probed

BASIS = '{"wgpu":"0.32.0"}'


def test_findings_come_back_as_they_were_written(store: Store) -> None:
    answer = Answer(number=49152, detail="[[1024, 1.5]]")
    failure = Failure(kind="device_lost", message="gone")
    for question, finding in (("one", answer), ("two", failure)):
        store.begin_probe(DEVICE, BASIS, question)
        store.finish_probe(DEVICE, BASIS, question, finding)

    assert store.findings(DEVICE, BASIS) == {"one": answer, "two": failure}
    assert store.findings(DEVICE, "another basis") == {}
    assert store.findings(replace(DEVICE, driver="581"), BASIS) == {}


def test_a_process_that_died_over_a_question_is_known_to_have(store: Store, path: Path) -> None:
    child = python(
        """
        import os, sys
        from databases import DEVICE
        from gemmtune.store import Store

        Store.open(sys.argv[1]).begin_probe(DEVICE, sys.argv[2], "deadly")
        os.kill(os.getpid(), 9)
        """,
        path,
        BASIS,
    )
    child.communicate()
    store.begin_probe(DEVICE, BASIS, "being asked")

    (finding,) = store.findings(DEVICE, BASIS).values()
    assert isinstance(finding, Failure)
    assert finding.kind == "crash"
    assert store.retry(kinds=["timeout"]) == 0
    assert store.retry(device_key="another") == 0
    assert store.retry() == 1
    assert store.findings(DEVICE, BASIS) == {}


def test_probing_does_not_overwrite_what_is_known_of_a_device(store: Store) -> None:
    probed = replace(DEVICE, resident_workgroup_bytes=49152)
    store.describe(probed)
    store.begin_probe(DEVICE, BASIS, "again")

    assert store.devices() == [probed]


def test_merge_brings_findings_along_and_keeps_those_there_are(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    with Store.open(two) as source:
        source.finish_probe(DEVICE, BASIS, "both", Answer(number=2))
        source.finish_probe(DEVICE, BASIS, "new", Answer(number=2))
        source.begin_probe(DEVICE, BASIS, "being asked")
    with Store.open(one) as target:
        add(target, 100.0)
        target.finish_probe(DEVICE, BASIS, "both", Answer(number=1))
        for _ in range(2):
            target.merge(two)
            assert target.findings(DEVICE, BASIS) == {
                "both": Answer(number=1),
                "new": Answer(number=2),
            }


# What can be wrong with a file


@pytest.mark.parametrize("number", range(1, SCHEMA + 1))
def test_every_schema_that_was_shipped_opens(number: int, path: Path) -> None:
    fixture = FIXTURES / f"schema{number}.db"
    before = files_beside(fixture)
    with Store.open(fixture, read_only=True) as store:
        info = store.info()
        assert (info.ok, info.schema) == (4 + number, number)
        assert store.best(DEVICE.key, GEMM.key)[0].time_ns == 100.0
        assert store.findings(DEVICE, "{}").keys() <= {"right", "wrong"}
    assert files_beside(fixture) == before

    with Store.open(path) as target:
        assert target.merge(fixture).measurements == 5 + number
    path.unlink()
    shutil.copy(fixture, path)
    with Store.open(path) as store:
        assert [row.result for row in store.reap()] == [None]
        assert store.check() == []
        assert store.best(DEVICE.key, GEMM.key)[0].time_ns == 100.0
        assert {device.name for device in store.devices()} == {DEVICE.name, LAVAPIPE.name}
        add(store, 1.0)
        assert store.info().schema == SCHEMA
    assert schema_of(path) == schema_of(FIXTURES / f"schema{SCHEMA}.db")


def schema_of(path: Path) -> dict[str, object]:
    """The columns of every table and view, in no order."""
    connection = sqlite3.connect(path)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
    found = {
        name: sorted(
            (column, kind)
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({name})")
        )
        for name in names
    }
    connection.close()
    return found


def test_processes_that_find_an_old_schema_migrate_it_once(path: Path) -> None:
    shutil.copy(FIXTURES / "schema1.db", path)
    code = """
    import sys
    from gemmtune.store import Store

    with Store.open(sys.argv[1]) as store:
        print(store.check())
    """
    children = [python(code, path) for _ in range(3)]
    for child in children:
        printed, _ = child.communicate()
        assert child.returncode == 0
        assert "damaged" not in printed
    assert schema_of(path) == schema_of(FIXTURES / f"schema{SCHEMA}.db")


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="is empty"):
        Store.open(path, create=False)
    with Store.open(path) as store:
        assert store.check() == []


def test_a_file_that_is_missing_is_made_only_on_request(path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(StoreError, match="there is no database at"):
            Store.open(path, **options)
    assert not path.exists()


def test_a_directory_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is a directory; give a file"):
        Store.open(tmp_path)


def test_a_missing_folder_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere is not a folder"):
        Store.open(tmp_path / "nowhere" / "tuning.db")


@pytest.mark.parametrize("size", [1, 100, 8192])
def test_noise_is_not_a_database_and_is_left_alone(path: Path, size: int) -> None:
    noise = random.Random(size).randbytes(size)
    path.write_bytes(noise)
    for read_only in (False, True):
        with pytest.raises(StoreCorruptError, match="damaged or not a database"):
            Store.open(path, read_only=read_only)
    assert path.read_bytes() == noise
    assert files_beside(path) == {"tuning.db"}


def test_a_truncated_database_is_reported_and_left_alone(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(40):
            add(store, 1.0 + number, config_of(number))
    whole = path.read_bytes()
    for pages in (1, 3, len(whole) // 4096 - 1):
        path.write_bytes(whole[: pages * 4096])
        assert any("damaged" in line for line in findings_in(path))
        assert path.read_bytes() == whole[: pages * 4096]


def test_another_programs_database_is_left_alone(path: Path) -> None:
    edit(path, "CREATE TABLE notes (text TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match="not one of gemmtune's"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path).close()
    edit(path, f"UPDATE meta SET schema = {SCHEMA + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match=rf"schema {SCHEMA + 1}.*upgrade gemmtune"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_locked_database_is_waited_for_then_named(store: Store, path: Path) -> None:
    add(store, 100.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreLockedError, match="is locked by another process"):
        begin(store, config_of(1))
    with pytest.raises(StoreLockedError):
        Store.open(path, busy_timeout_s=0.05)
    other.execute("ROLLBACK")
    other.close()
    assert begin(store, config_of(1)) is not None


def test_a_full_disk_loses_nothing_that_was_committed(path: Path) -> None:
    with Store.open(path) as store:
        add(store, 100.0)
    limit = path.stat().st_size // 4096 + 2

    def shrink(connection: sqlite3.Connection, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}").close()

    sqlalchemy.event.listen(Pool, "connect", shrink)
    done: list[int] = []
    try:
        with Store.open(path) as store:
            with pytest.raises(StoreFullError, match="no space left"):
                done.extend(add(store, 100.0, config_of(n), template="t" * 2000) for n in range(64))
            assert store.info().ok == 1 + len(done)
    finally:
        sqlalchemy.event.remove(Pool, "connect", shrink)
    with Store.open(path) as store:
        assert store.info().ok == 1 + len(done)
        assert store.check() == []
        assert begin(store, config_of(63)) is not None


def test_what_cannot_be_written_can_be_read(locked_folder: Path) -> None:
    path = locked_folder / "tuning.db"
    with pytest.raises(StoreReadOnlyError, match="cannot be written"):
        Store.open(path)
    with pytest.raises(StoreReadOnlyError, match="cannot be made"):
        Store.open(locked_folder / "new.db")
    with Store.open(path, read_only=True) as store:
        assert store.info().ok == 1
        with pytest.raises(StoreReadOnlyError, match="for reading only"):
            begin(store)
    assert files_beside(path) == {"tuning.db"}


def test_reading_and_compacting_leave_one_file(path: Path) -> None:
    with Store.open(path) as store:
        add(store, 100.0)
    with Store.open(path, read_only=True) as store:
        assert store.info().ok == 1
        assert files_beside(path) == {"tuning.db"}
    with Store.open(path) as store:
        store.compact()
    assert path.read_bytes()[18] == 1  # a rollback journal: readable on read-only media
    with Store.open(path, read_only=True) as store:
        assert store.best()[0].time_ns == 100.0
        assert files_beside(path) == {"tuning.db"}


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    with Store.open(two) as source:
        add(source, 90.0)
    with Store.open(one) as target:
        report = target.merge(f"sqlite:///{two}?password=secret")
    assert report.source == str(two)
    with pytest.raises((StoreError, MissingExtraError)) as caught:
        Store.open("postgresql://someone:secret@127.0.0.1:1/name")
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gemmtune\[postgres\]'"):
        Store.open("postgresql://host/name")


def test_urls_are_for_sqlalchemy(path: Path) -> None:
    with Store.open(f"sqlite:///{path}") as store:
        assert store.path == path
    for url, message in (
        ("sqlite://", "keeps nothing"),
        ("nothing://host/name", "no database 'nothing'"),
        ("mysql://host/name", "no database 'mysql'; give a file, or a postgresql:// URL"),
        ("postgresql+nothing://host/name", "no database 'postgresql[+]nothing'"),
        ("not a url://", "is not a database URL"),
    ):
        with pytest.raises(StoreError, match=message):
            Store.open(url)
