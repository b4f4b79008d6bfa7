"""One device's results as a JSON document that programs use without Python, and back.

The document holds kernels as WGSL with everything it takes to launch them, and the problems they
were measured on. `document.schema.json` beside this file describes it.
"""

from __future__ import annotations

from gemmtune.export.build import Selection, arrivals, export, forests, loads
from gemmtune.export.languages import LANGUAGES, Language, source, to_text
from gemmtune.export.select import Able, Chosen, candidates
from gemmtune.export.values import FORMAT, Document, schema

__all__ = [
    "FORMAT",
    "LANGUAGES",
    "Able",
    "Chosen",
    "Document",
    "Language",
    "Selection",
    "arrivals",
    "candidates",
    "export",
    "forests",
    "loads",
    "schema",
    "source",
    "to_text",
]
