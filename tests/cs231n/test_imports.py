"""`import xpcap.cs231n.course`: the course's imports are xpcap's in that process, unless the
course's package is there.
"""

from pathlib import Path

from course_folder import NAMES, own_package
from programs import program

SETUP = """
from PACKAGE.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array
from PACKAGE.rnn_layers import *
from PACKAGE.captioning_solver import CaptioningSolver
from PACKAGE.classifiers.rnn import CaptioningRNN
from PACKAGE.coco_utils import load_coco_data, sample_coco_minibatch, decode_captions
from PACKAGE.image_utils import image_from_url
"""


def python(code: str, folder: Path) -> None:
    """Run code in a process of its own, with `folder` first on its path as in a notebook."""
    assert program(code, folder=folder, XPCAP_BACKEND="numpy").stderr == ""


def test_the_courses_imports_give_xpcaps_functions_under_the_courses_names(tmp_path: Path) -> None:
    """Under either name of the package, beside a folder with nothing but data; a star brings the
    course's names alone; nothing is written.
    """
    (tmp_path / "cs231n" / "datasets" / "coco_captioning").mkdir(parents=True)
    code = f"""
try:
    from cs231n.rnn_layers import *
except ModuleNotFoundError:
    pass  # and the notebook is tried again with the first line
else:
    raise AssertionError
import xpcap.cs231n.course
{SETUP.replace("PACKAGE", "cs231n")}
import importlib, deeplearning.rnn_layers, xpcap.layers, xpcap.models.captioning_rnn
names = {NAMES!r}
for package in "cs231n", "deeplearning":
    for module, expected in names.items():
        scope = {{}}
        exec(f"from {{package}}.{{module}} import *", scope)
        del scope["__builtins__"]
        assert set(scope) == expected, (module, scope)
        for value in scope.values():
            assert value.__module__.startswith("xpcap."), value
assert lstm_forward is deeplearning.rnn_layers.lstm_forward is xpcap.layers.lstm_forward
assert CaptioningRNN is xpcap.models.captioning_rnn.CaptioningRNN
"""
    python(code, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["cs231n", "datasets", "coco_captioning"]


def test_nothing_of_ours_but_course_answers_an_import(tmp_path: Path) -> None:
    """Nor does the library load the exercise."""
    code = """
import importlib, pkgutil, sys
before = list(sys.meta_path)
import xpcap.runs
assert not [name for name in sys.modules if name.startswith("xpcap.cs231n")]
import xpcap.cli, xpcap.cs231n
for module in pkgutil.walk_packages(xpcap.cs231n.__path__, "xpcap.cs231n."):
    if module.name != "xpcap.cs231n.course":
        importlib.import_module(module.name)
assert sys.meta_path == before
assert "xpcap.cs231n.course" not in sys.modules
try:
    import cs231n
except ModuleNotFoundError:
    import xpcap.cs231n.course
    import cs231n
else:
    raise AssertionError
"""
    python(code, tmp_path)


def test_a_package_of_that_name_wins_and_is_named_in_a_warning_at_the_import(
    tmp_path: Path,
) -> None:
    """Also one that comes onto the path later, as on Colab, and one without an __init__.py."""
    own = own_package(tmp_path / "later", "deeplearning")
    own_package(tmp_path)
    (tmp_path / "cs231n" / "__init__.py").unlink()
    code = f"""
import sys, warnings
import xpcap.cs231n.course
sys.path.append({str(own.parent)!r})
for package, place in (("cs231n", {str(tmp_path / "cs231n")!r}), ("deeplearning", {str(own)!r})):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(f"from {{package}}.rnn_layers import *")
        exec(f"from {{package}}.optim import adam")
    (warning,) = caught
    assert warning.filename == "<string>", warning.filename
    assert f"{{package}} is imported from {{place}}" in str(warning.message)
    assert "xpcap.cs231n.course.override()" in str(warning.message)
    assert lstm_forward(1) is None and lstm_forward.__module__ == f"{{package}}.rnn_layers"
    try:
        exec(f"import {{package}}.fast_layers")
    except ModuleNotFoundError as error:
        assert "xpcap" not in str(error)
    else:
        raise AssertionError
"""
    python(code, tmp_path)


def test_a_folder_with_layers_alone_gets_the_courses_other_modules_from_xpcap(
    tmp_path: Path,
) -> None:
    """And so does one with a captioner of its own; a file that is there is never replaced."""
    for package in "cs231n", "deeplearning":
        (tmp_path / package).mkdir()
        (tmp_path / package / "rnn_layers.py").write_text("def lstm_forward(*arguments): pass\n")
    (tmp_path / "deeplearning" / "classifiers").mkdir()
    (tmp_path / "deeplearning" / "classifiers" / "rnn.py").write_text("class CaptioningRNN: pass\n")
    code = f"""
import warnings
import xpcap.cs231n.course
captioners = {{"cs231n": "xpcap.models.captioning_rnn", "deeplearning": "deeplearning.classifiers.rnn"}}
for package, captioner in captioners.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec({SETUP!r}.replace("PACKAGE", package))
    (warning,) = caught
    assert "modules that it lacks come from xpcap" in str(warning.message)
    assert lstm_forward.__module__ == f"{{package}}.rnn_layers"
    assert CaptioningRNN.__module__ == captioner
    assert CaptioningSolver.__module__ == "xpcap.training.solver"
    assert eval_numerical_gradient.__module__ == "xpcap.gradcheck"
"""
    python(code, tmp_path)


def test_override_answers_in_place_of_that_package_if_it_comes_first(tmp_path: Path) -> None:
    own_package(tmp_path)
    code = f"""
import xpcap.cs231n.course
xpcap.cs231n.course.override()
{SETUP.replace("PACKAGE", "cs231n")}
assert lstm_forward.__module__ == "xpcap.layers.lstm"
"""
    python(code, tmp_path)
    late = """
import cs231n, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import xpcap.cs231n.course
print(*(warning.message for warning in caught))
xpcap.cs231n.course.override()
"""
    package = tmp_path / "cs231n"
    done = program(late, folder=tmp_path, status=1, XPCAP_BACKEND="numpy")
    assert done.stdout.startswith(f"xpcap.cs231n.course: cs231n is imported from {package},")
    assert (
        f"ImportError: xpcap.cs231n.course.override: cs231n in {package} is imported already"
        in done.stderr
    )


def test_what_xpcap_lacks_is_refused_with_what_it_has(tmp_path: Path) -> None:
    code = """
import xpcap.cs231n.course
has = ("cs231n.captioning_solver, cs231n.classifiers.rnn, cs231n.coco_utils, cs231n.gradient_check,"
       " cs231n.image_utils, cs231n.layers, cs231n.optim, cs231n.rnn_layers")
own = "for more, put the course's own folder cs231n/ next to the notebook"
for line, name, words in (
    ("import cs231n.transformer_layers", "transformer_layers", (has, own)),
    ("from cs231n.classifiers.cnn import *", "classifiers.cnn", (has, own)),
    ("from cs231n.classifiers import cnn", "classifiers.cnn", (has, own)),
    ("from cs231n import fast_layers", "fast_layers", (has, own)),
    ("from cs231n.rnn_layers_pytorch import *", "rnn_layers_pytorch", ("since 2025", own)),
):
    try:
        exec(line)
    except ModuleNotFoundError as error:
        for word in (f"xpcap.cs231n.course: cs231n.{name} is not in xpcap, which has", *words):
            assert word in str(error), (word, str(error))
    else:
        raise AssertionError(line)
import cs231n.layers, pickle
for line, kind, words in (
    ("from cs231n.layers import relu_forward", ImportError, ("'relu_forward'", "cs231n/imports.py")),
    ("cs231n.layers.relu_forward", AttributeError, ("dropout_backward", own)),
):
    try:
        exec(line)
    except kind as error:
        for word in words:
            assert word in str(error).replace(chr(92), "/"), (word, str(error))
    else:
        raise AssertionError(line)
# Pickle asks every module for a name of that kind
import numpy as np
assert pickle.loads(pickle.dumps(np.add)) is np.add
assert not hasattr(cs231n.layers, "add")
"""
    python(code, tmp_path)


def test_modules_survive_reloads_and_their_objects_copies_pickles_and_other_processes(
    tmp_path: Path,
) -> None:
    """A pickle names xpcap alone. test_notebooks.py has `%autoreload 2`."""
    code = """
import copy, importlib, multiprocessing, pickle, subprocess, sys
import xpcap.cs231n.course
finders = list(sys.meta_path)
importlib.reload(xpcap.cs231n.course)
import xpcap.cs231n.course
assert sys.meta_path == finders
import cs231n.classifiers.rnn
from cs231n.rnn_layers import lstm_forward
for name in "cs231n", "cs231n.classifiers", "cs231n.classifiers.rnn":
    assert importlib.reload(sys.modules[name]) is sys.modules[name]
model = cs231n.classifiers.rnn.CaptioningRNN({"<NULL>": 0, "a": 1}, 3, 4, 5)
for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
    assert type(other) is type(model) and (other.params.flat == model.params.flat).all()
text = pickle.dumps((model, lstm_forward))
assert b"cs231n" not in text
read = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
subprocess.run([sys.executable, "-c", read], input=text, check=True)
assert subprocess.run([sys.executable, "-c", "import cs231n"], capture_output=True).returncode
"""
    python(code, tmp_path)
