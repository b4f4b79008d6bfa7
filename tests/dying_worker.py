"""A worker that is asked about a device and does what its first argument says of some questions.

The argument maps `Question.key`s, or parts of them, to a word, as JSON: ``{"8 f16 f32": "die"}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from gemmtune.probes import Question


def say(op: str, **content: Any) -> None:
    sys.stdout.write(json.dumps({"op": op} | content) + "\n")
    sys.stdout.flush()


words = json.loads(sys.argv[1])
if words.get("opening") == "die":
    os._exit(101)
say("opened")
for line in sys.stdin:
    key = Question.from_json(json.loads(line)["question"]).key
    with open(words.get("log", os.devnull), "a", encoding="utf-8") as log:
        log.write(key + "\n")
    word = next((word for part, word in words.items() if part in key), "right")
    if word == "die":
        sys.stderr.write("the driver fell over\n")
        os._exit(101)
    if word == "hang":
        time.sleep(3600)
    if word == "right":
        number = 49152 if key == "workgroup_memory" else 1
        say("finding", answer={"number": number, "detail": ""})
        continue
    kind = "device_lost" if word == "lost" else "wrong_result"
    say("finding", failure={"kind": kind, "message": word})
    if word == "lost":
        os._exit(0)
