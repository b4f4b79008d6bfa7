"""``python -m gemmtune``: the same as the command ``gemmtune``."""

from __future__ import annotations

import sys

from gemmtune.cli import main

if __name__ == "__main__":
    sys.exit(main())
