"""Where commands that only look at adapters remember what was probed of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gemmtune.cli.options import database
from gemmtune.errors import StoreError

if TYPE_CHECKING:
    from gemmtune.device import Device
    from gemmtune.probes import Finding, Memory
    from gemmtune.store import Store


@contextmanager
def memory(named: str | None = None, *, again: bool = False) -> Iterator[Memory]:
    """The database where results are kept, made when there is something to remember.

    Where it cannot be used, that is said once, and nothing is remembered.

    Args:
        named: ``--db``, where the command writes to it.
        again: what is remembered is not believed, and replaced.
    """
    lazy = _Lazy(named, again=again)
    try:
        yield lazy
    finally:
        lazy.close()


class _Lazy:
    """A `Memory` that opens its database when it is first needed."""

    def __init__(self, named: str | None, *, again: bool) -> None:
        self._again = again
        self._args = argparse.Namespace(db=named)
        self._store: Store | None = None
        self._given_up = False

    def findings(self, device: Device, basis: str) -> dict[str, Finding]:
        """See `Memory.findings`; of a database that does not exist, none."""
        where = database(self._args, write=False)
        if self._again:
            return {}
        if "://" not in str(where) and not Path(where).expanduser().exists():
            return {}
        store = self._open()
        return {} if store is None else store.findings(device, basis)

    def begin_probe(self, device: Device, basis: str, question: str) -> None:
        """See `Memory.begin_probe`."""
        if store := self._open():
            store.begin_probe(device, basis, question)

    def finish_probe(self, device: Device, basis: str, question: str, finding: Finding) -> None:
        """See `Memory.finish_probe`."""
        if store := self._open():
            store.finish_probe(device, basis, question, finding)

    def describe(self, device: Device) -> None:
        """See `Memory.describe`."""
        if store := self._open():
            store.describe(device)

    def _open(self) -> Store | None:
        if self._store is None and not self._given_up:
            try:
                from gemmtune.store import Store

                self._store = Store.open(database(self._args, write=True))
            except (ModuleNotFoundError, StoreError) as error:
                self._given_up = True
                print(f"gemmtune: what is probed cannot be kept: {error}", file=sys.stderr)
        return self._store

    def close(self) -> None:
        """Lets go of the database."""
        if self._store is not None:
            self._store.close()
