"""tools/gpu_check.py on the emulated device, with fewer steps, and without the parts that time or take
hours: python tools/emulated_check.py PAGE.
"""

import os
import re
import sys
from pathlib import Path

import gpu_check

EVERYWHERE = gpu_check.ROOT / "tests" / "emulated" / "everywhere"
LONG = (
    "Parity",
    "Parity in other orders",
    "Where a step's time goes",
    "Speed",
    "Speed beside PyTorch",
    "Two cards",
)
FEWER = {
    "benchmarks.ten_minutes": lambda m: f"{m[0]} --captions 5 --steps 4",
    r"step_paths --captions (\d+)": lambda m: f"step_paths --captions {int(m[1]) // 12} --steps 10",
    "--steps 1000": lambda _: "--captions 5 --steps 20",
    "xpcap train": lambda _: "xpcap train --hidden 16 --wordvec 8",
    "pytest -m gpu": lambda _: "pytest tests/ops -m gpu",
}


def emulated_parts() -> list[gpu_check.Part]:
    """The parts of the check, with less to do."""
    text = gpu_check.COMMANDS.read_text(encoding="utf-8")
    for pattern, fewer in FEWER.items():
        text = re.sub(pattern, fewer, text)
    return [part for part in gpu_check.parts_of(text) if part.title not in LONG]


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(EVERYWHERE)
    sys.exit(gpu_check.check(emulated_parts(), Path(sys.argv[1])))
