"""The golden check of the library sees a changed sign, and no layout of memory."""

import functools
from collections.abc import Iterator

import golden_library
import numpy as np
import pytest
from golden_library import Sheet

from xpcap import layers


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One batch and one layout of memory in place of all; the legacy stream stays as it was."""
    monkeypatch.setattr(golden_library, "BATCHES", (5,))
    monkeypatch.setattr(golden_library, "LAYOUTS", ("strided",))
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def hashes_of(subject: str) -> dict[str, str]:
    sheet = Sheet()
    for hash_results in golden_library.SUBJECTS[subject]:
        hash_results(sheet)
    return sheet.hashes


def test_the_gradient_with_a_flipped_sign_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before, backward = hashes_of("layers"), layers.rnn_step_backward

    @functools.wraps(backward)
    def flipped(**arguments: object) -> tuple[np.ndarray, ...]:
        dx, dprev_h, *others = backward(**arguments)
        return dx, -dprev_h, *others

    monkeypatch.setattr(layers, "rnn_step_backward", flipped)
    after = hashes_of("layers")
    assert [name for name in after if after[name] != before[name]] == [
        f"rnn_step_backward {dtype} N=5 strided dnext_h: dprev_h"
        for dtype in ("float32", "float64")
    ]


def test_the_layout_of_an_array_is_not_part_of_its_hash_but_dtype_and_shape_are() -> None:
    x, sheet = np.arange(6.0).reshape(2, 3), Sheet()
    results = {
        "x": x,
        "columns": np.asfortranarray(x),
        "float32": x.astype(np.float32),
        "flat": x.ravel(),
    }
    sheet.put("", results)
    assert sheet.hashes[".x"] == sheet.hashes[".columns"]
    assert len(set(sheet.hashes.values())) == 3


def test_a_name_is_hashed_once() -> None:
    sheet = Sheet()
    sheet.put("h", 1)
    with pytest.raises(ValueError, match="two results are called h"):
        sheet.put("h", 2)
