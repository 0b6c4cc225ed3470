"""Update rules: their published steps."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from xpcap.gradcheck import rel_error
from xpcap.verify.rows import Row, make_row, read_array


def rules(optim: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """One step of each rule: the weights after it, and the state that it keeps."""
    for case in cases["rules"]:
        config = {key: read_array(value, "float64") if isinstance(value, Mapping) else value for key, value in case["config"].items()}
        next_w, config = getattr(optim, case["name"])(read_array(case["w"], "float64"), read_array(case["dw"], "float64"), config)
        for name, expected in case["expected"].items():
            got = next_w if name == "next_w" else config[name]
            yield make_row(f"{case['name']} {name}", "float64", rel_error(got, np.asarray(expected)), case["rtol"])
