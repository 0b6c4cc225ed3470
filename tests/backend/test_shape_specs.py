"""The language of shapes: sizes, alternatives, kinds, finiteness, messages and docstrings."""

from types import SimpleNamespace

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap.backend.shape_specs import Spec, spec
from xpcap.errors import DataError


def zeros(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("text", "shapes", "sizes"),
    [
        ("x:N,D", [(2, 3)], {"N": 2, "D": 3}),
        ("h:N,H b:4H", [(2, 3), (12,)], {"N": 2, "H": 3}),
        ("b:4H h:N,H", [(12,), (2, 3)], {"N": 2, "H": 3}),
        ("c:D,d p:d+1,V", [(5, 2), (3, 7)], {"D": 5, "d": 2, "V": 7}),
        ("x:...,D", [(2, 3, 4)], {"...": (2, 3), "D": 4}),
        ("x:N,... w:D,M", [(2, 3, 4), (5, 6)], {"...": (3, 4), "N": 2, "D": 5, "M": 6}),
        ("x:... y:...,D", [(2, 3), (2, 3, 4)], {"...": (2, 3), "D": 4}),
        ("x:N,D|N,P,D", [(2, 3)], {"N": 2, "D": 3}),
        ("x:N,D|N,P,D", [(2, 9, 3)], {"N": 2, "P": 9, "D": 3}),
        ("x:N,3", [(2, 3)], {"N": 2}),
        ("x:()", [()], {}),
        ("x:N,H", [(0, 3)], {"N": 0, "H": 3}),
        ("x:N,D -> h:N,H", [(2, 3)], {"N": 2, "D": 3}),
    ],
)
def test_shapes_bind_sizes(text: str, shapes: list[tuple[int, ...]], sizes: dict[str, int]) -> None:
    assert Spec(text).check(*(zeros(*shape) for shape in shapes)) == sizes


@pytest.mark.parametrize(
    ("text", "shapes", "thing", "expected"),
    [
        ("x:N,D", [(2, 3, 4)], "x", "(N, D)"),
        ("h:N,H b:4H", [(2, 3), (13,)], "b", "(4H,) = (12,)"),
        ("h:N,H c:N,H", [(2, 3), (2, 4)], "c", "(N, H) = (2, 3)"),
        ("c:D,d p:d+1,V", [(5, 2), (2, 7)], "p", "(d+1, V), d = 2"),
        ("x:...,D", [(4,)], "x", "(..., D)"),
        ("x:N,...", [(4,)], "x", "(N, ...)"),
        ("x:... y:...,D", [(2, 3), (2, 4, 4)], "y", "(..., D), ... = (2, 3)"),
        ("x:... y:...", [(2, 3), (2,)], "y", "(...) = (2, 3)"),
        ("w:D x:N,D|N,P,D", [(3,), (2, 4)], "x", "(N, D), D = 3"),
        ("x:N,3", [(2, 4)], "x", "(N, 3)"),
        ("x:()", [(1,)], "x", "()"),
        ("b:4H", [(13,)], "b", "(4H,)"),
    ],
)
def test_shape_that_does_not_fit_is_refused(
    text: str, shapes: list[tuple[int, ...]], thing: str, expected: str
) -> None:
    got = f"has shape {shapes[-1]}"
    with refuses(ValueError, thing, got, expected, "note"):
        Spec(text, "note").check(*(zeros(*shape) for shape in shapes))


def test_sizes_that_are_known_bind_first() -> None:
    assert Spec("x:N,D").check(zeros(2, 3), sizes={"D": 3}) == {"D": 3, "N": 2}
    with refuses(ValueError, "x", "(N, D), D = 4"):
        Spec("x:N,D").check(zeros(2, 3), sizes={"D": 4})


@refusals(
    """
    "x:N", [1.0] | is a list | an array
    "x:N", zeros(2, 2).view(np.matrix) | is a numpy.matrix | a numpy.ndarray
    "x:N", np.ma.array(zeros(2)) | is a masked array | a numpy.ndarray
    "x:N", zeros(2, dtype="i4") | has dtype int32 | float32 or float64
    "x:N", zeros(2, dtype="f2") | has dtype float16 | float32 or float64
    "x:N=i", zeros(2) | has dtype float32 | integers
    "x:N=b", zeros(2, dtype="i4") | has dtype int32 | booleans
    "x:N=n", zeros(2, dtype="c8") | has dtype complex64 | real numbers
    "x:N=f2", zeros(2) | has dtype float32 | float16
    "x:N=f", zeros(2, dtype="i8") | has dtype int64 | floats
    "x:N=t", zeros(2) | has dtype float32 | text
    """,
    "x",
    error=TypeError,
)
def test_array_of_another_kind_is_refused(refusal: Refusal) -> None:
    refusal.check(globals(), "text, array = {}; Spec(text).check(array)")


def test_a_spec_reads_as_the_shapes_of_arguments_above_those_of_results() -> None:
    text = "x:N>0,D|N,P,D! w:4D ids:...=i c0?:() -> out:...,D loss:() dc0?:()"
    assert str(Spec(text)) == (
        "x (N > 0, D) or (N, P, D) finite, w (4D,), ids (...) integers, c0 () or None\n"
        "-> out (..., D), loss (), dc0 ()"
    )


def test_floats_have_one_dtype_and_other_kinds_their_own() -> None:
    both = Spec("x:N,D ids:N=i w:D,M")
    both.check(zeros(2, 3), zeros(2, dtype="i8"), zeros(3, 4))
    with refuses(TypeError, "w", "has dtype float64", "float32, as x has"):
        both.check(zeros(2, 3), zeros(2, dtype="i8"), zeros(3, 4, dtype="f8"))
    with refuses(TypeError, "w", "has dtype float32", "float64, as x has"):
        both.check(zeros(2, 3, dtype="f8"), zeros(2, dtype="i8"), zeros(3, 4))


def test_numbers_that_are_not_finite_are_refused_where_finite_ones_are_asked_for() -> None:
    x = np.array([1, np.inf], np.float32)
    Spec("x:N").check(x)
    with refuses(ValueError, "x", "holds inf at [1]"):
        Spec("x:N=f4!").check(x)
    with refuses(DataError, "a.npz: x", "holds inf at [1]", "damaged?"):
        Spec("x:N=f4!").check_file("f: a.npz", {"x": x}, "damaged?")


def test_file_has_the_arrays_of_a_spec_and_no_other() -> None:
    stored = Spec("mean:D=f4 components:D,d=f4! counts:m=u4")
    good = {"mean": zeros(3), "components": zeros(3, 2), "counts": zeros(5, dtype="u4")}
    assert stored.check_file("f: file", good, "damaged?", {"D": 3}) == {"D": 3, "d": 2, "m": 5}
    odd = [
        ({"counts": zeros(5, dtype="u8")}, "file: counts", "dtype uint64", "uint32 of shape (m,)"),
        ({"components": zeros(4, 2)}, "file: components", "shape (4, 2)", "(D, d), D = 3"),
        ({"more": zeros(1)}, "file", "holds more", "components, counts, mean"),
    ]
    for change, thing, got, expected in odd:
        with refuses(DataError, thing, got, expected, "damaged?"):
            stored.check_file("f: file", {**good, **change}, "damaged?", {"D": 3})


def test_arrays_that_are_still_on_disk_are_checked_without_reading() -> None:
    lazy = SimpleNamespace(shape=(2, 3), dtype=np.dtype("f4"))
    assert Spec("x:N,D=f").check_file("f", {"x": lazy}, "") == {"N": 2, "D": 3}


def test_kind_that_does_not_exist_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="'q' is not a kind"):
        Spec("x:N=q")


def test_argument_that_may_be_none_is_checked_if_it_is_given() -> None:
    state = Spec("h0:N,H c0?:N,H")
    assert state.check(zeros(2, 3), None) == {"N": 2, "H": 3}
    with refuses(ValueError, "c0", "has shape (2, 4)"):
        state.check(zeros(2, 3), zeros(2, 4))
    with refuses(TypeError, "h0", "is a NoneType"):
        state.check(None, None)


def test_backward_has_a_gradient_for_each_argument() -> None:
    found = spec("x:N,D ids:N=i Wx:D,4H c0?:N,H -> h:N,H").backward
    assert [entry.name for entry in found.entries] == ["dh"]
    assert [entry.name for entry in found.results] == ["dx", "dWx", "dc0"]
    assert [entry.shapes for entry in found.results] == ["(N, D)", "(D, 4H)", "(N, H)"]
