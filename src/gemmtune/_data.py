"""Where the shipped files are: beside the code in a wheel, at the top in a checkout."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def data_path(name: str) -> Path:
    """The shipped file or folder ``name`` (``templates``, ``tuning.db``).

    An editable install may leave stale copies in site-packages, so the code's own neighbours are
    looked at first and the checkout second, never the import system.
    """
    from pathlib import Path

    return Path(data_file(name))


def data_file(name: str) -> str:
    """`data_path` as text, for lookups: pathlib would be a tenth of all that they import."""
    inside = os.path.join(_PACKAGE, name)
    checkout = os.path.dirname(os.path.dirname(_PACKAGE))
    return inside if os.path.exists(inside) else os.path.join(checkout, name)
