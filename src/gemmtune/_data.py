"""Where the shipped files are: beside the code in a wheel, at the top in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_path(name: str) -> Path:
    """The shipped file or folder ``name`` (``templates``, ``tuning.db``).

    An editable install may leave stale copies in site-packages, so the code's own neighbours are
    looked at first and the checkout second, never the import system.
    """
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parents[1] / name
