"""Whole trainings by plain code: what fast code gives, up to rounding, though
all of these are broken; and each training by one code to its end.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill
import numpy as np
import pytest
from commands import call, good
from emulated import Emulator
from ranks import together
from refusals import refuses
from stopping import stop_after

from xpcap import (
    BackendError,
    Beam,
    CaptionData,
    CaptioningSolver,
    Greedy,
    GroupError,
    OptionError,
    Recipe,
    evaluate_run,
    load_state,
    open_run,
    plain,
    train_run,
    use_backend,
    write_dataset,
)
from xpcap.backend import cublas, probe, threads
from xpcap.backend.launch import Kernel
from xpcap.backend.replay import Replay
from xpcap.data.synthetic import Lengths, draw_data
from xpcap.decoding.decode import decode
from xpcap.distributed import SINGLE, Group
from xpcap.models import Sampling
from xpcap.models.device_batch import Layout
from xpcap.ops import HostOps, overridden
from xpcap.runs.folder import HISTORY, LAST, load_earlier

CODES: dict[str, Callable[[], Any]] = {"fast": contextlib.nullcontext, "plain": plain}
OTHER = {"fast": "plain", "plain": "fast"}
OPTIONS = {"hidden": 6, "wordvec": 4, "batch_size": 16, "epochs": 2, "score_epochs": 1, "lr": 0.01}
OPTIONS |= {"dropout": 0.3, "inject": "attention+every-step", "select": "loss"}


@pytest.fixture(autouse=True)
def on_numpy() -> Iterator[None]:
    with use_backend("numpy"):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "grids.h5"
    drawn = [draw_data(n, (4, 6), 16, seed, Lengths(5, 1, 3, 7)) for seed, n in enumerate((48, 16))]
    splits = {name: x.split("train") for name, x in zip(("train", "val"), drawn, strict=True)}
    write_dataset(path, CaptionData(drawn[0].vocabulary, splits))
    return path


@contextlib.contextmanager
def broken() -> Iterator[None]:
    """Everything that is faster on the host raises."""
    with pytest.MonkeyPatch.context() as patch:
        for name in overridden(HostOps):
            patch.setattr(HostOps, name, refuse)
        patch.setattr(threads, "_pool", refuse)
        yield


def refuse(*arguments: object, **options: object) -> None:
    raise RuntimeError("a fast version ran")


def train(code: str, data: Path, out: Path, group: Group = SINGLE, **options: Any) -> Path:
    with CODES[code]():
        return train_run(Recipe(data, out=out / code, **OPTIONS | options), group=group).run.path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``trained(code, cell)``: a run, trained by plain code while all that is fast is broken."""

    @functools.cache
    def once(code: str, cell: str = "lstm") -> Path:
        with broken() if code == "plain" else contextlib.nullcontext():
            return train(code, data, tmp_path_factory.mktemp("trained"), cell=cell)

    return once


def history(run: Path) -> list[dict[str, float]]:
    """Records of both stages."""
    return [json.loads(line) for line in (run / HISTORY).read_text().splitlines()]


@pytest.mark.usefixtures("new_cells")
@pytest.mark.parametrize("cell", ["lstm", "stacked"])  # of all other kinds
def test_a_plain_training_is_the_fast_one_up_to_rounding(
    cell: str, data: Path, trained: Callable[..., Path]
) -> None:
    """Cross entropy, then the score; captioning by either code takes the parameters of both."""
    runs = {code: open_run(trained(code, cell)) for code in CODES}
    fast, slow = (history(runs[code].path) for code in CODES)
    assert len(fast) == 3
    for ours, theirs in zip(slow, fast, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    configs = [runs[code].config.to_json() for code in CODES]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} == {"code"}

    features = runs["fast"].data(data).features("val", np.arange(5))
    for run in runs.values():
        for policy in (
            Greedy(max_length=6),
            Beam(3, max_length=6),
            Sampling(max_length=6, seed=1, top_p=0.9),
        ):
            decoded = []
            for code in CODES.values():
                with code():
                    decoded.append(decode(run.model, features, policy, scored=True))
            np.testing.assert_array_equal(decoded[0].captions, decoded[1].captions)
            totals = (found.log_probabilities for found in decoded)
            np.testing.assert_allclose(*totals, rtol=1e-5, atol=1e-6)


def test_emulated_plain_training_is_numpys_though_every_part_of_ours_is_broken(
    data: Path,
    trained: Callable[..., Path],
    tmp_path: Path,
    device: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU on which ours fail is usable for plain code, and for that alone."""
    numpy = trained("plain")
    parts: list[tuple[Any, str]] = [(Kernel, "__init__"), (Kernel, "__call__"), (Replay, "run")]
    parts += [(Layout, "of"), (cublas, "multiply"), (cublas, "multiply_rows")]
    for owner, name in parts:
        monkeypatch.setattr(owner, name, refuse)
    probe.cupy_status.cache_clear()
    with device.counting() as counts, plain(), use_backend("cupy"):
        cupy = train("plain", data, tmp_path)
    assert counts.launches
    assert (counts.kinds()["raw"], counts.products) == (0, [])
    for ours, theirs in zip(history(cupy), history(numpy), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    with refuses(BackendError, "a fast version ran"):
        use_backend("cupy")


@pytest.mark.parametrize(("steps", "rewarded"), [(4, False), (11, True)])
def test_a_plain_training_that_is_stopped_goes_on_plainly_to_the_same_bytes(
    steps: int, rewarded: bool, data: Path, trained: Callable[..., Path], tmp_path: Path
) -> None:
    """In either stage. The command that it prints says so."""
    whole, out = trained("plain"), tmp_path / "plain"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(steps, patch)
        result = call("train", data, "--out", out, *flags, "--plain")
    assert result.exit_code == 143, result.output
    assert bool(load_earlier(out / LAST)) == rewarded
    assert f"train --out {out} --resume --plain" in result.output
    good("train", "--out", out, "--resume", "--plain")
    assert kill.differing(out, whole) == set()


REMEDIES = {"fast": "go on without ", "plain": "go on with "}


@pytest.mark.parametrize("code", CODES)
def test_what_one_code_began_the_other_does_not_continue(
    code: str, data: Path, tmp_path: Path
) -> None:
    """Nor does it change: by the command, from a state, or a step of a solver."""
    run, flag = train(code, data, tmp_path, score_epochs=0), ["--plain"] * (code == "fast")
    before = kill.files(run)
    result = call("train", "--out", run, "--resume", *flag)
    assert result.exit_code == 2
    words = f"was begun by {code} code, and this process runs {OTHER[code]} code"
    assert f"{run} {words}" in result.output
    assert REMEDIES[code] + "--plain" in result.output
    assert kill.files(run) == before

    def solver() -> CaptioningSolver:
        opened = open_run(run)
        return CaptioningSolver(
            opened.model, opened.data(data), update_rule="adam", batch_size=16, verbose=False
        )

    with CODES[code]():
        ours = solver()
        state = load_state(run / LAST, ours.model.params.shapes)
        ours.restore(state)
    with CODES[OTHER[code]]():
        with refuses(OptionError, "the state", words, REMEDIES[code]):
            solver().restore(state)
        with refuses(OptionError, "the training", words, REMEDIES[code]):
            ours.train()
        start = Recipe(data, out=tmp_path / "more", start=run, epochs=1, hidden=6, wordvec=4)
        train_run(replace(start, dropout=0.3, inject=OPTIONS["inject"]))
        assert evaluate_run(open_run(run), data, "val").scores


def test_ranks_train_together_by_the_same_code(
    data: Path, trained: Callable[..., Path], tmp_path: Path
) -> None:
    with broken():
        both = together(2, lambda group: history(train("plain", data, tmp_path / "two", group)))
    for ours, theirs in zip(both[0], history(trained("plain")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    got = "has code 'fast', rank 0 has 'plain'"
    with refuses(GroupError, "rank 1", got):
        together(2, lambda group: train(("plain", "fast")[group.rank], data, tmp_path, group))
