"""The command as people and scripts run it: a process with arguments, two streams, an exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gemmtune
from databases import add
from gemmtune.cli.devices import _lines
from gemmtune.cli.options import count, seconds
from gemmtune.cli.output import print_table
from gemmtune.device import Device, Fragment
from gemmtune.errors import UsageError
from gemmtune.store import Store
from strategies import LAVAPIPE, MATRICES

COMMAND = [sys.executable, "-m", "gemmtune"]
NO_ADAPTER = {
    "VK_DRIVER_FILES": "/nonexistent/driver.json",
    "VK_ICD_FILENAMES": "/nonexistent/driver.json",
    "__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent/vendor.json",
}


class Cli:
    """Runs the command with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = home / "data" / "gemmtune" / "tuning.db"
        self.env = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home / "data")}
        self.env.pop("GEMMTUNE_DB", None)

    def run(
        self, *args: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            [*COMMAND, *args],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**self.env, **(env or {})},
            cwd=self.home,
        )

    def json(self, *args: str) -> Any:
        """What it prints as JSON; it must succeed."""
        run = self.run(*args, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """In the background."""
        return subprocess.Popen(
            [*COMMAND, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.env,
            cwd=self.home,
        )

    def rows(self, status: str) -> dict[str, float | None]:
        """Time of each measurement with this status, by its uuid."""
        if not self.database.exists():
            return {}
        connection = sqlite3.connect(self.database, timeout=30)
        try:
            query = "SELECT uuid, time_ns FROM measurements WHERE status = ?"
            return dict(connection.execute(query, (status,)))
        except sqlite3.OperationalError:
            return {}  # its tables are being made
        finally:
            connection.close()

    def wait_for_rows(self, number: int, process: subprocess.Popen[str]) -> None:
        """Until as many configs have been measured."""
        give_up_at = time.monotonic() + 120
        while len(self.rows("ok")) < number:
            assert process.poll() is None, "tuning ended before it could be disturbed"
            assert time.monotonic() < give_up_at, "tuning does not get on"
            time.sleep(0.02)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def adapter(device: Device) -> tuple[str, ...]:
    """The options that choose the adapter of the other tests."""
    expected = os.environ.get("GEMMTUNE_EXPECT_ADAPTER")
    return ("--adapter", expected) if expected else ()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, device: Device) -> tuple[Cli, Any]:
    """A home in which one problem has been tuned, to be read only, and what that printed."""
    cli = Cli(tmp_path_factory.mktemp("tuned"))
    return cli, cli.json(*TUNE, "--trials", "3", "--adapter", device.key)


@pytest.fixture
def copied(cli: Cli, tuned: tuple[Cli, Any]) -> Any:
    """What tuning printed whose database the test has a copy of."""
    cli.database.parent.mkdir(parents=True)
    shutil.copy(tuned[0].database, cli.database)
    return tuned[1]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, device: Device) -> tuple[str, Any]:
    """What ``devices`` prints, and that as JSON."""
    cli = Cli(tmp_path_factory.mktemp("listed"))
    return cli.run("devices").stdout, cli.json("devices")


TUNE = ("tune", "--shape", "8x8x8")


@pytest.mark.parametrize(
    ("args", "exit_code", "says"),
    [
        (("tune", "--shape", "12"), 2, "not MxNxK"),
        (("tune", "--shape", "-4x4x4"), 2, "--shape"),
        ((*TUNE, "--dtype", "f8"), 2, "dtype 'f8'"),
        ((*TUNE, "--budget", "nonsense"), 2, "budget 'nonsense' is not a time"),
        ((*TUNE, "--budget", "0s"), 2, "budget '0s' is not a time"),
        ((*TUNE, "--trials", "-3"), 2, "--trials"),
        ((*TUNE, "--trials", "0"), 2, "--trials"),
        ((*TUNE, "--beta", "nan"), 2, "not a finite number"),
        ((*TUNE, "--family", "nope"), 2, "'nope'"),
        ((*TUNE, "--sampler", "nope"), 2, "sampler 'nope'"),
        ((*TUNE, "--db", "."), 1, "is a directory"),
        ((*TUNE, "--db", "no/such/folder/x.db"), 1, "is not a folder"),
        ((*TUNE, "--shapes-file", "nope.txt"), 2, "nope.txt"),
        (("tune",), 2, "nothing to tune"),
        (("tune", "--preset", "nope"), 2, "'nope'"),
        (("lookup", "4x4"), 2, "not MxNxK"),
        (("lookup", "4x4x4", "--device", "any", "--db", "nope.db"), 1, "there is no database"),
        (("bench", "0x4x4"), 2, "has a size of 0"),
        (("db", "info"), 1, "there is no database"),
        (("db", "check", "--db", "nope.db"), 1, "there is no database"),
        (("db", "merge", "nope.db"), 1, "there is no database"),
        (("db", "retry", "--kind", "nope"), 2, "'nope'"),
        (("completion", "nope"), 2, "'nope'"),
        (("nope",), 2, "'nope'"),
        ((), 2, "COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    cli: Cli, args: tuple[str, ...], exit_code: int, says: str
) -> None:
    run = cli.run(*args)

    assert run.returncode == exit_code, run.stderr
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("gemmtune: ")
    assert says in run.stderr


def test_a_file_that_is_no_database_is_refused_and_left_alone(cli: Cli) -> None:
    file = cli.home / "letter.db"
    file.write_text("Dear database, " * 200)
    before = file.read_bytes()

    run = cli.run(*TUNE, "--db", str(file))

    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "not a database" in run.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "args", [("devices",), ("devices", "--json"), TUNE, ("bench", "8x8x8")], ids=" ".join
)
def test_no_adapter_at_all_is_one_line(cli: Cli, args: tuple[str, ...]) -> None:
    run = cli.run(*args, env=NO_ADAPTER)

    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("gemmtune: no WebGPU adapter")


def test_lookup_without_an_adapter_answers_for_any_device_and_says_so(cli: Cli) -> None:
    run = cli.run("lookup", "64x64x64", "--wgsl", env=NO_ADAPTER)

    assert run.returncode == 0
    assert "@compute" in run.stdout
    assert "for any WebGPU device" in run.stderr


@pytest.mark.parametrize("dialect", ["naga", "tint"])
def test_lookup_prints_the_kernel_in_a_dialect(cli: Cli, dialect: str) -> None:
    h100 = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
    shape = ("lookup", "4096x4096x4096", "--dtype", "f16", "--device", h100, "--wgsl")

    run = cli.run(*shape, "--json", "--dialect", dialect)

    answer = json.loads(run.stdout)
    assert answer["family"] == "coopmat"
    assert answer["dialect"] == dialect
    tint = "chromium-experimental-subgroup-matrix" in answer["features"]
    assert tint == (dialect == "tint")
    assert ("enable chromium_experimental_subgroup_matrix;" in answer["wgsl"]) == tint
    assert ("coopLoad" in answer["wgsl"]) != tint


def test_an_adapter_that_is_not_there_is_named_beside_those_that_are(
    cli: Cli, device: Device
) -> None:
    run = cli.run(*TUNE, "--adapter", "nope")

    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "'nope'" in run.stderr
    assert device.name in run.stderr


@pytest.mark.parametrize("args", [("--debug", "tune"), ("tune", "--debug")], ids=" ".join)
def test_debug_shows_the_traceback_before_and_after_the_command(
    cli: Cli, args: tuple[str, ...]
) -> None:
    run = cli.run(*args, "--shape", "12")

    assert run.returncode != 0
    assert "Traceback" in run.stderr
    assert "ProblemError" in run.stderr


def test_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli.run("--version").stdout == f"gemmtune {gemmtune.__version__}\n"


def test_a_reader_that_leaves_is_no_error(cli: Cli) -> None:
    process = cli.start("lookup", "64x64x64", "--device", "any", "--wgsl")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert process.wait() == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_commands(cli: Cli, shell: str) -> None:
    run = cli.run("completion", shell)

    assert run.returncode == 0
    assert run.stderr == ""
    for word in ("devices", "lookup", "merge", "--trials"):
        assert word.lstrip("-") in run.stdout


def test_completion_for_bash_is_valid_bash(cli: Cli) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = cli.run("completion", "bash").stdout

    subprocess.run([bash, "-n"], input=script, text=True, check=True)


def test_devices_names_one_default_and_every_key(listed: tuple[str, Any], device: Device) -> None:
    text, found = listed

    assert [entry["default"] for entry in found].count(True) == 1
    assert device.key in [entry["key"] for entry in found]
    assert device.key in text


def test_devices_say_how_matrices_are_loaded_and_what_a_multiprocessor_holds() -> None:
    every = {"workgroup": (1, 2, 4), "storage": (1, 2, 4)}
    fragments = (
        Fragment(size=8, ab="f16", acc="f32", **every),
        Fragment(size=16, ab="f16", acc="f32", **every),
    )
    device = replace(MATRICES, fragments=fragments, resident_workgroup_bytes=49152)
    text = "\n".join(_lines(0, device, default=False))
    assert (
        "from workgroup memory by 1, 2 or 4 and from storage memory by 1, 2 or 4 elements" in text
    )
    assert "49152 bytes of workgroup memory on a multiprocessor" in text

    narrow = Fragment(size=8, ab="f16", acc="f32", workgroup=(4,))
    device = replace(MATRICES, fragments=(narrow, fragments[1]))
    text = "\n".join(_lines(0, device, default=False))
    assert "8 f16 -> f32: from workgroup memory by 4 elements; 16 f16 -> f32: from" in text
    assert "unknown: more workgroup memory" in text
    assert "not asked" in "\n".join(_lines(0, LAVAPIPE, default=True))


def test_devices_say_which_matrices_they_have_or_why_none(listed: tuple[str, Any]) -> None:
    text, found = listed
    lines = [line for line in text.splitlines() if "   matrices " in line]

    assert len(lines) == len(found)
    assert all("none: " in line or "x16 f" in line or "x8 f" in line for line in lines)


def test_unlock_says_how_things_stand_and_removes_nothing_that_is_not_there(cli: Cli) -> None:
    env = {"XDG_CACHE_HOME": str(cli.home / "cache")}
    before = cli.run("unlock", "--status", env=env)
    removed = cli.run("unlock", "--remove", env=env)

    assert before.returncode == removed.returncode == 0
    assert "copy      none" in before.stdout
    assert removed.stdout == "there is no copy to delete\n"
    assert not (cli.home / "cache" / "gemmtune").exists()


def test_unlock_without_an_adapter_to_unlock_is_one_line(cli: Cli) -> None:
    run = cli.run("unlock", env={**NO_ADAPTER, "XDG_CACHE_HOME": str(cli.home / "cache")})

    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "no adapter here offers cooperative-matrix" in run.stderr
    assert not (cli.home / "cache" / "gemmtune").exists()


def test_lookup_for_a_key_needs_no_adapter_and_prints_json(cli: Cli) -> None:
    problem = ("512x256x128", "--trans-b", "--math", "f16x3")
    found = cli.json("lookup", *problem, "--device", "vulkan/0000-0000/none/1")

    assert found["problem"]["trans_b"] is True
    assert found["problem"]["math"] == "f16x3"
    assert found["source"] in ("device", "default")
    assert found["device"] == "vulkan/0000-0000/none/1"
    assert found["passes"][0]["workgroups"] > 0
    assert found["workspace_bytes"] == 0


def test_a_tuned_problem_is_kept_found_and_compared(
    tuned: tuple[Cli, Any], adapter: tuple[str, ...]
) -> None:
    cli, printed = tuned
    (problem,) = printed["problems"]
    assert problem["trials"] == problem["measured"] == 3
    assert problem["stop"] == "trials"
    assert printed["database"] == str(cli.database)

    found = cli.json("lookup", "8x8x8", "--device", printed["device"])
    assert found["source"] == "exact"
    assert found["config"] == problem["config"]
    assert found["time_ns"] == problem["time_ns"]

    info = cli.json("db", "info")
    assert info["ok"] + info["failed"] == 3
    assert info["running"] == 0
    assert [device["key"] for device in info["devices"]] == [printed["device"]]

    bench = cli.json("bench", "8x8x8", "--rounds", "1", *adapter)
    labels = [(kernel["label"], kernel["family"]) for kernel in bench["kernels"]]
    assert labels[0] == ("tuned (exact)", problem["family"])
    assert labels[-1] == ("default", "naive")
    assert all(kernel["time_ns"] > 0 for kernel in bench["kernels"])


def test_hot_times_inputs_in_the_cache_and_keeps_its_results_apart(
    cli: Cli, adapter: tuple[str, ...], copied: Any
) -> None:
    hot = cli.json(*TUNE, "--trials", "1", "--hot", *adapter)
    bench = cli.json("bench", "8x8x8", "--rounds", "1", "--hot", *adapter)

    assert (copied["inputs"], hot["inputs"], bench["inputs"]) == ("cold", "hot", "hot")
    assert hot["problems"][0]["measured"] == 1
    with closing(sqlite3.connect(cli.database)) as connection:
        policies = connection.execute("SELECT policy FROM measurements ORDER BY id").fetchall()
    assert [policy.split("/")[1] for (policy,) in policies] == ["cold"] * 3 + ["hot"]
    found = cli.json("lookup", "8x8x8", "--device", copied["device"])
    assert found["time_ns"] == copied["problems"][0]["time_ns"]


def test_tuning_in_text_ends_with_a_table_on_stdout_and_progress_on_stderr(
    cli: Cli, adapter: tuple[str, ...]
) -> None:
    args = ("tune", "--shape", "8x8x8", "--shape", "9x9x9", "--trials", "1", *adapter)
    run = cli.run(*args)

    assert run.returncode == 0, run.stderr
    assert "speed-up" in run.stdout.splitlines()[0]
    assert len([line for line in run.stdout.splitlines() if ":f32" in line]) == 2
    assert "8x8x8" in run.stderr
    quiet = cli.run(*args, "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == run.stdout


def test_tuning_that_is_refused_leaves_no_database(cli: Cli) -> None:
    run = cli.run("tune", "--shape", "8x8x8", "--adapter", "no such adapter", "--db", "new.db")

    assert run.returncode == 1
    assert "no such adapter" in run.stderr
    assert list(cli.home.glob("**/new.db*")) == []


def test_an_empty_problem_is_refused_by_tuning(cli: Cli, adapter: tuple[str, ...]) -> None:
    run = cli.run("tune", "--shape", "0x4x4", *adapter)

    assert run.returncode == 2
    assert run.stderr == "gemmtune: nothing to tune: 0x4x4 has a size of 0\n"


def test_merged_databases_hold_the_rows_of_both(cli: Cli, tuned: tuple[Cli, Any]) -> None:
    shutil.copy(tuned[0].database, cli.home / "a.db")
    with Store.open(cli.home / "b.db") as other:
        add(other, 100.0)

    reports = cli.json("db", "merge", "a.db", "b.db")
    again = cli.json("db", "merge", "a.db", "b.db")

    assert [report["measurements"] for report in reports] == [3, 1]
    assert [report["measurements"] for report in again] == [0, 0]
    info = cli.json("db", "info")
    assert info["ok"] + info["failed"] == 4
    assert cli.run("db", "check").returncode == 0


def test_check_exits_with_1_where_something_is_wrong(cli: Cli, copied: Any) -> None:
    with sqlite3.connect(cli.database) as connection:
        connection.execute("UPDATE problems SET m = 77")
    connection.close()

    run = cli.run("db", "check")

    assert run.returncode == 1
    assert "8x8x8" in run.stdout


# Its kernels compile fast: this is about rows, not about kernels.
HALF_WAY = ("tune", "--shape", "1x16x24", "--family", "gemv", "--trials", "14", "--plain")


def test_tuning_killed_half_way_continues_and_loses_nothing(
    cli: Cli, adapter: tuple[str, ...]
) -> None:
    process = cli.start(*HALF_WAY, *adapter)
    cli.wait_for_rows(6, process)
    process.kill()
    process.communicate()
    kept = cli.rows("ok")
    failed = cli.rows("failed")
    orphans = cli.rows("running")

    (problem,) = cli.json(*HALF_WAY, *adapter)["problems"]

    after = cli.rows("ok")
    # The leaders' times may be newer ones.
    assert kept.keys() <= after.keys()
    assert problem["trials"] == 14
    # One that was compiling runs again; one that had the device does not.
    crashed = problem["failures"].get("crash", 0)
    assert crashed <= len(orphans)
    assert problem["measured"] == 14 - len(kept) - len(failed) - crashed
    assert cli.rows("running") == {}
    assert cli.run("db", "check").returncode == 0

    forgotten = cli.json("db", "retry")["forgotten"]
    assert forgotten == crashed


def test_ctrl_c_ends_with_130_and_everything_kept(cli: Cli, adapter: tuple[str, ...]) -> None:
    process = cli.start(*HALF_WAY, *adapter)
    cli.wait_for_rows(4, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("gemmtune: interrupted")
    assert "Traceback" not in errors
    assert len(cli.rows("ok")) >= 4
    assert cli.rows("running") == {}
    assert cli.run("db", "check").returncode == 0


@pytest.mark.parametrize(
    ("text", "expected_s"), [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2H", 7200.0)]
)
def test_a_budget_is_read_in_its_unit(text: str, expected_s: float) -> None:
    assert seconds(text) == expected_s


@pytest.mark.parametrize("text", ["", "s", "-1s", "0", "1d", "nan", "inf", "1e3s", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        seconds(text)


def test_a_count_is_an_integer_above_zero() -> None:
    assert count("12") == 12


def test_tables_align_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "time"), [("4x4x4:f32", "9 us"), ("b", "-")])

    assert capsys.readouterr().out == "name       time\n4x4x4:f32  9 us\nb             -\n"
