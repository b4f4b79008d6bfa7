"""SIGINT and SIGTERM as something to look at between two steps, so that none is left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one raises."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    names = (signal.SIGINT, signal.SIGTERM)
    previous = {name: signal.signal(name, handle) for name in names}
    try:
        yield interrupted
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
