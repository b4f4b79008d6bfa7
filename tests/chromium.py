"""A headless Chromium with WebGPU on the CPU, and a server on loopback for its pages."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # there is none for root, as whom continuous integration runs
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
)
TYPES = {".js": "text/javascript", ".html": "text/html", ".json": "application/json"}
LIMIT_S = 120.0


def required(name: str) -> str:
    """Where the program is; skips where it is not, fails where it is expected."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("GEMMTUNE_EXPECT_BROWSER"):
            pytest.fail(f"GEMMTUNE_EXPECT_BROWSER is set and there is no {name}", pytrace=False)
        pytest.skip(f"needs {name}: apt install {'nodejs' if name == 'node' else name}")
    return path


@contextmanager
def served(files: Mapping[str, bytes]) -> Iterator[tuple[str, queue.SimpleQueue[Any]]]:
    """A server of these files by path: its address, and what pages POST to it."""
    posted: queue.SimpleQueue[Any] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Type", TYPES.get(Path(self.path).suffix, "text/plain"))
            self.end_headers()
            self.wfile.write(data or b"")

        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_page(files: Mapping[str, bytes], page: str, profile: Path) -> Any:
    """What ``page`` POSTs when Chromium shows it."""
    chromium = required("chromium")
    with served(files) as (address, posted):
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"{address}{page}"]
        with open(profile.with_suffix(".log"), "wb") as log:
            browser = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
            try:
                return posted.get(timeout=LIMIT_S)
            except queue.Empty:
                tail = profile.with_suffix(".log").read_text(errors="replace")[-2000:]
                pytest.fail(f"Chromium gave no answer in {LIMIT_S} s: {tail}", pytrace=False)
            finally:
                os.killpg(browser.pid, 15)
                try:
                    browser.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(browser.pid, 9)
                    browser.wait()
