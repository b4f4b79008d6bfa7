"""The examples run, here and in a browser, and what they show is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from chromium import run_page
from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.export import Selection, export, to_text
from gemmtune.store import Store

EXAMPLES = Path(__file__).parents[1] / "examples"
REPORT = b"""<script type="module">
while (document.title !== "done") await new Promise((next) => setTimeout(next, 50));
await fetch("/found", { method: "POST", body: JSON.stringify(document.body.innerText) });
</script>"""


def test_the_python_example_multiplies(device: Device) -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "multiply.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("largest error") == 4


def test_the_web_page_multiplies_with_an_exported_document(tmp_path: Path) -> None:
    shape = Selection(shapes=("512x512x512",), dtypes=("f32", "f32", "f32", "f32"), dialect="tint")
    with Store.open(data_path("tuning.db"), read_only=True) as store:
        document = export([store], shape, "gemmtune test")
    page = (EXAMPLES / "multiply.html").read_bytes()
    files = {
        "/multiply.html": page.replace(b"</html>", REPORT + b"</html>"),
        "/gemmtune.js": (data_path("js") / "gemmtune.js").read_bytes(),
        "/kernels.json": to_text(document).encode(),
    }
    text = run_page(files, "/multiply.html", tmp_path / "profile")
    assert "All results agree with float64" in text
    assert text.count("tiled-") == 3
