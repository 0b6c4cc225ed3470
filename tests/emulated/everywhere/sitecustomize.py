"""The emulated device in every Python process that finds this folder on PYTHONPATH, with models and
data so small that the CPU can do a card's work.
"""

import platform
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def put_everywhere() -> None:
    sys.path[:0] = [str(ROOT / folder) for folder in (".", "tests", "tests/helpers", "tools")]
    import commands
    import pytest
    from emulated import install

    from benchmarks import work

    patch = pytest.MonkeyPatch()
    install(patch, name="the emulated device: no time here is a card's")
    sys.modules["cupy"].show_config = lambda **_: print("CuPy's own account of a card: none here")
    del sys.modules["cupyx"]  # the real package's, half imported, which Hypothesis would look into
    patch.setattr(platform, "platform", lambda: "a machine without a card")
    commands.use_few_pictures(patch)
    for name, config in work.CONFIGS.items():
        work.CONFIGS[name] = replace(config, D=12, W=6, H=10, V=40)


put_everywhere()
