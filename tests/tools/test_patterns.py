"""Code is found by its shape, whatever its layout, and only what was named is changed."""

import pytest
from patterns import function_named, in_cuda, in_python

PYTHON = '''
class Cell:
    def step(self, a, é):
        """Übung."""
        é = gates(a[é],  # a comment
                  é, out=é)
        return é, a


CELLS = {"step": 1}
SIZES: dict[str, int] = {"step": 1}


def step(x):
    x[...] = 0
    if x.full:
        return gates(x + 1, out=x)
'''
CUDA = """
__device__ int twice(int n) { return 2 * n; }  // { not a brace
extern "C" __global__ void f(int* x) { __syncthreads(); if (x[0]) { x[0] = 1;   __syncthreads(); } }
extern "C" __global__ void g(int* x) { __syncthreads(); }
"""


@pytest.mark.parametrize(
    ("function", "pattern", "instead", "now", "count"),
    [
        ("Cell.step", "gates($here, ...)", "$here.copy()", "é = gates(a[é].copy(), é, out=é)", 1),
        (
            "Cell.step",
            "$out = gates($x, $y, out=$z)",
            "$out = plain($x, $y)",
            "        é = plain(a[é], é)\n        return",
            1,
        ),
        (
            "Cell.step",
            "return $x, $y",
            "print($x)\nreturn $x, $y",
            "        print(é)\n        return (é, a)",
            1,
        ),
        ("Cell.step", "$x[$x]", "0", "", 0),
        ("jump", "gates(..., out=$here)", "None", "", 0),
        ("step", "gates(..., out=$here)", "None", "gates(x + 1, out=None)", 2),
        ("step", "gates($x, out=$y)", "$x.copy()", "return (x + 1).copy()", 1),
        ("step", "$x[...] = 0", "pass", "    pass\n    if", 1),
        ("step", "x.full", "len(x)", "if len(x):", 1),
        ("step", "print($x)", "pass", "", 0),
        ("CELLS", "{'step': $here}", "2", "CELLS = {'step': 2}", 1),
        ("SIZES", "{'step': $here}", "2", "SIZES: dict[str, int] = {'step': 2}", 1),
    ],
)
def test_python_is_matched_by_its_shape(
    function: str, pattern: str, instead: str, now: str, count: int
) -> None:
    text, found = in_python(PYTHON, function, pattern, instead)
    assert found == count
    assert now in text
    assert (text == PYTHON) == (count == 0)


def test_a_function_that_is_not_there_or_not_alone_is_an_error() -> None:
    for name, found in (("jump", 0), ("step", 2)):
        with pytest.raises(LookupError, match=f"{found} functions are called '{name}'"):
            function_named(PYTHON, name)


def test_cuda_is_matched_within_one_function() -> None:
    assert in_cuda(CUDA, "f", r"__syncthreads\(\);", "", 1)[0].count("__syncthreads") == 2
    assert in_cuda(CUDA, "f", r"__syncthreads\(\);", "")[1] == 2
    assert in_cuda(CUDA, "f", r"__syncthreads\(\);", "", 2) == (CUDA, 0)
    assert in_cuda(CUDA, "h", r"__syncthreads\(\);", "") == (CUDA, 0)
    assert "return n + n;" in in_cuda(CUDA, "twice", r"2 \* (\w)", r"\1 + \1")[0]
