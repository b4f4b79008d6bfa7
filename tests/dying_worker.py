"""A worker that is asked to try fragments and does what its first argument says of some of them.

The argument maps sizes and dtypes to a word, as JSON: ``{"8 f16 f32": "die"}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def say(op: str, **content: Any) -> None:
    sys.stdout.write(json.dumps({"op": op} | content) + "\n")
    sys.stdout.flush()


words = json.loads(sys.argv[1])
if words.get("opening") == "die":
    os._exit(101)
say("opened")
for one in json.loads(sys.argv[sys.argv.index("--fragments") + 1]):
    word = words.get(f"{one['size']} {one['ab']} {one['acc']}", "right")
    if word == "die":
        os._exit(101)
    if word == "hang":
        time.sleep(3600)
    say("fragment", wrong="" if word == "right" else word, lost=word == "lost")
    if word == "lost":
        os._exit(0)
