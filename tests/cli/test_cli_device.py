"""Every command on the emulated device: what it writes and prints is what NumPy gives, to rounding,
and runs go from one to the other.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, call, few, good
from emulated import Emulator

from xpcap.drawings import write_pictures
from xpcap.runs.folder import BEST, CONFIG, HISTORY, LAST, load_parameters

pytestmark = pytest.mark.usefixtures("few_threads")

LOOSE = {"rtol": 2e-4, "atol": 2e-5}  # float32, after some twenty steps of Adam


def numbers(value: Any) -> list[float]:
    """The numbers in something read from JSON, in order."""
    if isinstance(value, dict):
        return [n for key in sorted(value) for n in numbers(value[key])]
    if isinstance(value, list):
        return [n for part in value for n in numbers(part)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_emulated_commands_say_and_leave_what_numpy_does(
    few_pictures: None, device: Emulator, tmp_path: Path
) -> None:
    """train, info, evaluate, and caption of a split and of files."""
    host, emulated = runs = tmp_path / "numpy", tmp_path / "cupy"
    options = *SMALL, "--feature-scaling", "standardize", "--backend"
    for run in runs:
        good("train", "--out", run, *options, run.name)
    files = [sorted(path.relative_to(run) for path in run.rglob("*")) for run in runs]
    assert files[0] == files[1]
    assert (emulated / "index.html").stat().st_size > 10_000
    np.testing.assert_allclose(
        numbers(lines(emulated / HISTORY)), numbers(lines(host / HISTORY)), **LOOSE
    )
    for name in (BEST, LAST):
        ours, theirs = (load_parameters(run / name)[0] for run in (emulated, host))
        for key, tensor in theirs.items():
            np.testing.assert_allclose(ours[key], tensor, err_msg=f"{name} {key}", **LOOSE)
    configs = [json.loads((run / CONFIG).read_text()) for run in (emulated, host)]
    assert {key: ours for key, ours in configs[0].items() if ours != configs[1][key]} == {
        "backend": "cupy"
    }

    write_pictures(tmp_path / "pictures", few(5), "val")
    for command in (
        ["evaluate", emulated],
        ["caption", emulated, "-n", "6"],
        ["caption", emulated, tmp_path / "pictures"],
    ):
        ours, theirs = (
            json.loads(good(*command, "--json", "--backend", backend).stdout)
            for backend in ("cupy", "numpy")
        )
        if isinstance(ours, dict):
            ours["seconds"] = theirs["seconds"] = 0
            assert ours["captions"] == theirs["captions"]
        else:
            assert [one["caption"] for one in ours] == [one["caption"] for one in theirs]
        np.testing.assert_allclose(numbers(ours), numbers(theirs), **LOOSE)
    assert json.loads(good("info", "--json").stdout)["backends"]["cupy"]["devices"] == ["emulated"]


@pytest.mark.nightly
@pytest.mark.parametrize("way", [(), ("--plain",)])
def test_emulated_verify_passes(way: tuple[str, ...], device: Emulator) -> None:
    rows = json.loads(good("verify", "--backend", "cupy", "--json", *way).stdout)
    assert {row["backend"] for row in rows} == {"cupy"}
    assert len(rows) > 80
    assert [row for row in rows if not row["passed"]] == []


def test_training_names_variables_that_take_products_out_of_float32(
    device: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("CUPY_TF32", "0")
    (tmp_path / "letter.txt").write_text("mine")  # so that the folder is refused
    words = ("train", "--out", tmp_path, *SMALL)
    said = "products on the GPU have reduced precision, as NVIDIA_TF32_OVERRIDE=1 is set"
    assert said in call(*words, "--backend", "cupy").output
    assert said not in call(*words, "--backend", "numpy").output
