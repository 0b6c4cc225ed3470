"""Examples that hypothesis makes up: the same few in every run of the suite; XPCAP_EXAMPLES=N, as
`make fuzz` sets it, takes N fresh ones for each property.
"""

import atexit
import os
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.configuration import set_hypothesis_home_dir

FRESH = os.environ.get("XPCAP_EXAMPLES")
STORE = tempfile.TemporaryDirectory()  # what hypothesis keeps on disk, from collection on
atexit.register(STORE.cleanup)
set_hypothesis_home_dir(STORE.name)


def holds(*strategies: Any, number: int = 120) -> Callable[[Any], Any]:
    """A test of everything that the strategies make, on so many examples if none are asked for."""
    chosen = settings(
        max_examples=int(FRESH or number),
        derandomize=not FRESH,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: chosen(given(*strategies)(test))
