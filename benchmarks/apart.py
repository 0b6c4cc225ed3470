"""Runs a contender in a separate process, so that the threads and memory of one library cannot slow another, nor its context shut another out.

The child runs `main`. It gets its task as one JSON object, and prints a JSON line as soon as it has timed a configuration and kind of work.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.configs import WORKS, Config
from benchmarks.machine import machine
from benchmarks.measuring import Measurement, measure
from benchmarks.timing import Plan
from xpcap.backend import use_backend
from xpcap.errors import EXPECTED, BackendError


def measure_apart(contender: str, configs: Iterable[Config], plan: Plan, backend: str, works: Sequence[str] = WORKS) -> Iterator[Measurement]:
    """Run measuring.measure in a fresh process.

    Raises
    ------
    BackendError : the process failed. The message says why, or else standard error does.
    """
    order = {
        "contender": contender,
        "configs": [dataclasses.asdict(config) for config in configs],
        "plan": dataclasses.asdict(plan),
        "backend": backend,
        "works": list(works),
    }
    for answer in _answers(contender, order):
        yield Measurement(**answer)


def machine_apart(backend: str) -> dict[str, str]:
    """Describe the machine, with the backend that `backend` stands for, from a fresh process: on a card of its own, no context stays in this one.

    Raises
    ------
    BackendError : the backend is not usable here, with the reason.
    """
    (answer,) = _answers(f"backend {backend}", {"machine": backend})
    return answer


def _answers(who: str, order: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a fresh process prints about an order, as it comes."""
    package = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-c", "from benchmarks.apart import main; main()", json.dumps(order)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise BackendError(answer["error"])
                yield answer
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise BackendError(f"bench: {who} stopped with exit status {child.returncode}, expected an answer; its own output is above")


def main() -> None:
    """What the child process runs."""
    order = json.loads(sys.argv[1])
    try:
        if "machine" in order:
            use_backend(order["machine"])
            print(json.dumps(machine()))
            return
        configs = [Config(**config) for config in order["configs"]]
        for measurement in measure(order["contender"], configs, Plan(**order["plan"]), order["backend"], order["works"]):
            print(json.dumps(measurement._asdict()), flush=True)
    except (*EXPECTED, ArithmeticError) as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
