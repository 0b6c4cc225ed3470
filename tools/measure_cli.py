"""The command line of a measure: a checkout, and a table or JSON."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(
    about: str | None,
    measure: Callable[[Path], Any],
    as_json: Callable[[Any], Any],
    show: Callable[[Any], None],
) -> None:
    """Measure the checkout that the command line names; print JSON, or call `show`."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="folder with xpcap/ in it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    if not (given.checkout / "xpcap").is_dir():
        parser.error(f"{given.checkout} has no folder xpcap, expected a checkout")
    found = measure(given.checkout)
    if given.json:
        print(json.dumps(as_json(found)))
    else:
        show(found)
