"""A study that several tuners share through a database of Optuna's, which its dashboard shows.

Every row asked is a trial in it: running, complete with its time in ns, pruned where the config
failed, and failed where its tuner gave it up or died; such a row is free again. Does not choose.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, get_args, get_type_hints

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import RDBStorage, fail_stale_trials, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from gemmtune import literals
from gemmtune.errors import ConfigError, StoreError
from gemmtune.kernels.base import Config
from gemmtune.search.rows import Row
from gemmtune.store.shared import preparing, storage_errors, storage_url

if TYPE_CHECKING:
    from types import TracebackType

HEARTBEAT_S = 10
"""Between two signs of life of a running trial."""
GRACE_S = 60
"""A trial without one for so long is failed, and its row free: longer than a space is listed."""
_LARGEST = 2**31
"""Of an integer in a config; Optuna wants to know, and has it the same in all trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What others have done since the last look."""

    results: Sequence[tuple[Row, float | None]]
    """Rows with their time in ns; None: it failed."""
    taken: Sequence[Row]
    """Rows that are in flight elsewhere."""
    freed: Sequence[Row]
    """Rows that were, and whose tuner gave up or died."""


class Storage:
    """An open storage of Optuna's. Used from one thread.

    Args:
        url: of a database, in words of SQLAlchemy.
        heartbeat_s: see `HEARTBEAT_S`.
        grace_s: see `GRACE_S`.

    Raises:
        StoreError: it cannot be used.
        UsageError: the URL makes no sense, or is that of a file with results.
        MissingExtraError: the package that speaks to it is not installed.
    """

    def __init__(self, url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S) -> None:
        target = storage_url(url)
        self.where = target.render_as_string(hide_password=True)
        self.heartbeat_s = heartbeat_s
        self.grace_s = grace_s
        plain = target.render_as_string(hide_password=False)
        with preparing(target), self.errors(), _quiet():
            self._backend = RDBStorage(plain, heartbeat_interval=heartbeat_s, grace_period=grace_s)
        self.optuna = get_storage(self._backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._backend.remove_session()
        self._backend.engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What Optuna raises about its database leaves as a StoreError."""
        try:
            with storage_errors(self.where):
                yield
        except StorageInternalError as error:
            raise StoreError(
                f"--storage {self.where} cannot be used any more: {error.__cause__}; the same "
                "command goes on once it can"
            ) from error
        except RuntimeError as error:  # the tables are of another version of Optuna
            raise StoreError(f"--storage {self.where} cannot be used: {error}") from error


class Study:
    """The trials of one space: claims, results, signs of life.

    Args:
        storage: where.
        name: the same for all whose times compare.
        now: a clock in seconds.
    """

    def __init__(
        self, storage: Storage, name: str, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._trials = storage.optuna
        self._now = now
        self._beat_s = now()
        with storage.errors(), _quiet():
            self._study = optuna.create_study(
                storage=self._trials, study_name=name, direction="minimize", load_if_exists=True
            )
            self._id = self._trials.get_study_id_from_name(name)
        self._configs: Mapping[str, type[Config]] = {}
        self._rows: dict[int, Row | None] = {}
        self._own: dict[Row, int] = {}
        self._ended: set[Row] = set()
        self._taken: set[Row] = set()
        self._late: dict[Row, float | None] = {}
        self._seen_s: dict[int, float] = {}
        self._vouched: set[int] = set()

    def expect(self, configs: Mapping[str, type[Config]]) -> None:
        """Only rows of these families are of interest."""
        self._configs = configs

    def claim(self, row: Row) -> bool:
        """Begin a trial of ``row``; False where another tuner has begun or finished one."""
        with self._storage.errors():
            trial_id = self._create(row, TrialState.RUNNING, None)
            self._backend.record_heartbeat(trial_id)
            # Optuna numbers trials one by one, so all tuners agree on who was first.
            first = next(trial for trial in self._live() if self._row(trial) == row)
            if first._trial_id != trial_id:
                self._trials.set_trial_state_values(trial_id, TrialState.FAIL)
                return False
        self._own[row] = trial_id
        return True

    def finish(self, row: Row, value_ns: float | None) -> None:
        """Write down what came of ``row``, whether it was claimed here or not; None: it failed."""
        state = TrialState.PRUNED if value_ns is None else TrialState.COMPLETE
        values = None if value_ns is None else [value_ns]
        trial_id = self._own.pop(row, None)
        with self._storage.errors():
            if trial_id is not None:
                try:
                    self._trials.set_trial_state_values(trial_id, state, values)
                except UpdateFinishedTrialError:
                    trial_id = None  # it was silent for so long that others took it for dead
            if trial_id is None and row in self._taken:
                self._late[row] = value_ns  # its tuner is about to tell, unless it dies
            elif trial_id is None and row not in self._ended:
                self._create(row, state, value_ns)
        self._ended.add(row)

    def drop(self, row: Row) -> None:
        """Give up the claim, if there is one: others may have the row."""
        trial_id = self._own.pop(row, None)
        if trial_id is not None:
            # Where others took it for dead, they have done so already.
            with self._storage.errors(), suppress(UpdateFinishedTrialError):
                self._trials.set_trial_state_values(trial_id, TrialState.FAIL)

    def drop_all(self) -> None:
        """Give up every claim."""
        for row in list(self._own):
            self.drop(row)

    def changes(self) -> Changes:
        """What others have done since the last call; also shows that this tuner is alive."""
        self._beat()
        ended: dict[Row, float | None] = {}
        running: set[Row] = set()
        with self._storage.errors():
            for trial in self._live():
                row = self._row(trial)
                if row is None:
                    continue
                if trial.state.is_finished():
                    ended.setdefault(row, trial.value)
                elif row not in self._own:
                    running.add(row)
            for row in [row for row in self._late if row not in running]:
                value_ns = self._late.pop(row)
                if row not in ended:
                    state = TrialState.PRUNED if value_ns is None else TrialState.COMPLETE
                    self._create(row, state, value_ns)
        results = [(row, value) for row, value in ended.items() if row not in self._ended]
        self._ended |= ended.keys()
        taken = running - self._ended
        freed = self._taken - taken - self._ended - self._own.keys()
        fresh, self._taken = taken - self._taken, taken
        return Changes(results=results, taken=list(fresh), freed=list(freed))

    def _beat(self) -> None:
        """Signs of life of the trials here, and an end to those that show none."""
        if self._now() - self._beat_s < self._storage.heartbeat_s and self._rows:
            return
        self._beat_s = self._now()
        with self._storage.errors(), _quiet():
            for trial_id in self._own.values():
                self._backend.record_heartbeat(trial_id)
            fail_stale_trials(self._study)
            self._vouch()

    def _vouch(self) -> None:
        """Give one sign of life for trials whose tuner may have died before it gave any.

        Optuna never fails those. After it failed the others, what has been running for longer than
        the grace either lives or never gave a sign.
        """
        running = {t._trial_id for t in self._live() if not t.state.is_finished()}
        theirs = running - set(self._own.values())
        for trial_id in theirs:
            seen_s = self._seen_s.setdefault(trial_id, self._now())
            if self._now() - seen_s > self._storage.grace_s and trial_id not in self._vouched:
                self._vouched.add(trial_id)
                self._backend.record_heartbeat(trial_id)

    @property
    def _backend(self) -> RDBStorage:
        return self._storage._backend

    def _live(self) -> list[FrozenTrial]:
        """Trials that count, by number."""
        trials = self._trials.get_all_trials(self._id, deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.FAIL]

    def _row(self, trial: FrozenTrial) -> Row | None:
        """What it is a trial of; None where that is of no interest here."""
        if trial.number not in self._rows:
            family = trial.user_attrs.get("family", "")
            text = trial.user_attrs.get("config")
            row = None
            if family in self._configs and text is not None:
                try:
                    row = (family, self._configs[family].from_json(json.loads(text)))
                except ConfigError:
                    row = None  # somebody else's trial
            self._rows[trial.number] = row
        return self._rows[trial.number]

    def _create(self, row: Row, state: TrialState, value_ns: float | None) -> int:
        family, config = row
        params = _params(family, config)
        text = json.dumps(config.to_json(), sort_keys=True)
        template = create_trial(
            state=state,
            value=value_ns,
            params={name: value for name, (value, _) in params.items()},
            distributions={name: distribution for name, (_, distribution) in params.items()},
            user_attrs={"family": family, "config": text},
        )
        return self._trials.create_new_trial(self._id, template)


def _params(family: str, config: Config) -> dict[str, tuple[Any, BaseDistribution]]:
    """What the dashboard plots: values, and where they lie, the same whatever the space is."""
    hints = get_type_hints(type(config), localns=vars(literals))
    found: dict[str, tuple[Any, BaseDistribution]] = {}
    for name, value in asdict(config).items():
        choices = get_args(hints[name])
        if isinstance(value, bool):
            found[f"{family}.{name}"] = value, CategoricalDistribution((False, True))
        elif value in choices:
            found[f"{family}.{name}"] = value, CategoricalDistribution(choices)
        elif isinstance(value, int):
            found[f"{family}.{name}"] = value, IntDistribution(0, _LARGEST)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says that it made a study and that heartbeats are experimental; nobody asked."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
