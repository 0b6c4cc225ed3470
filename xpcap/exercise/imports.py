"""The course's modules made of xpcap's functions, and the finder that imports them."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from xpcap import data, gradcheck, layers, models, optim
from xpcap.exercise.data import image_from_url
from xpcap.exercise.table import FILES, PACKAGE, functions
from xpcap.training import solver

NAMES = (PACKAGE, "deeplearning")  # of the package, at Stanford and at Berkeley
ORIGIN = __file__  # of the modules made here: Python names it where one lacks a name
# Where xpcap has what the table's modules define
WRITTEN = {"rnn_layers": layers, "rnn": models, "optim": optim, "captioning_solver": solver}


def _of(module: ModuleType, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


# Name of a module in the course's package to its content
MODULES: dict[str, dict[str, Any]] = {
    **{
        FILES[name].removesuffix(".py").replace("/", "."): _of(
            module, (one.defined for one in functions([name]))
        )
        for name, module in WRITTEN.items()
    },
    "layers": _of(
        layers, ("affine_forward", "affine_backward", "dropout_forward", "dropout_backward")
    ),
    "coco_utils": _of(data, ("load_coco_data", "decode_captions", "sample_coco_minibatch")),
    "gradient_check": _of(
        gradcheck,
        ("eval_numerical_gradient", "eval_numerical_gradient_array", "grad_check_sparse"),
    ),
    "image_utils": {"image_from_url": image_from_url},
}
PACKAGES = {name.rpartition(".")[0] for name in MODULES}


class CourseFinder(MetaPathFinder, Loader):
    """Finds the course's modules, unless a package of that name has them.

    It fills them with xpcap's functions and classes, which keep their own `__module__`. Modules put
    into `sys.modules` at once would win over a package that comes onto the path later, and could
    not be reloaded.

    overrides : ignore that package
    """

    overrides = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of a module from xpcap; None: another finder should handle the import.

        ModuleNotFoundError : the package is xpcap's, and has no such module.
        """
        package, _, name = fullname.partition(".")
        if package not in NAMES:
            return None
        if not name and not self.overrides and (found := found_elsewhere(package)):
            # At the line that imports: frames of the import system do not count
            warnings.warn(_used(package, found), stacklevel=2)
            return None
        supplied = name in MODULES or name in PACKAGES
        if name and _imported_elsewhere(package):
            in_package = found_elsewhere(fullname, path) is not None
            if in_package or not supplied:  # a student's folder may have rnn_layers.py alone
                return None
        if not supplied:
            known = [f"{package}.{one}" for one in sorted(MODULES)]
            # Without `name`, which `from package import module` would take for leave to say less
            raise ModuleNotFoundError(_lacking(fullname, package, known))
        spec = ModuleSpec(fullname, self, origin=ORIGIN, is_package=name in PACKAGES)
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.partition(".")
        if name in PACKAGES:
            module.__doc__ = f"CS231n's {module.__name__}, from xpcap."
            return
        content = MODULES[name]
        module.__doc__ = f"CS231n's {module.__name__}, from xpcap: {', '.join(content)}."
        vars(module).update(content, __all__=list(content))

        def missing(attribute: str) -> NoReturn:
            raise AttributeError(_lacking(f"{module.__name__}.{attribute}", package, content))

        vars(module)["__getattr__"] = missing


FINDER = CourseFinder()


def install() -> None:
    """Answer imports of the course's modules from now on, in this process. Repeated, no change."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    for package in NAMES:
        if found := _imported_elsewhere(package):
            warnings.warn(_used(package, found), stacklevel=3)


def override() -> None:
    """Answer the course's imports even where a package of that name is there, such as your own.

    ImportError : that package has been imported already, and notebooks hold its functions.
    """
    for package in NAMES:
        if found := _imported_elsewhere(package):
            raise ImportError(
                f"xpcap.course.override: {package} in {found} is imported already, expected to come"
                " before it; restart Python, and let this be the first line"
            )
    FINDER.overrides = True


def _place(spec: ModuleSpec | None) -> str | None:
    """Folder of a package, or file of a module; None of one without Python files in it.

    The course's folder with nothing but data in it is a package to Python, and none to us.
    """
    if spec is None:
        return None
    if spec.origin is not None:
        path = Path(spec.origin)
        return str(path.parent if path.name == "__init__.py" else path)
    for folder in spec.submodule_search_locations or ():
        if any(any(Path(folder).glob(pattern)) for pattern in ("*.py", "*/*.py")):
            return folder
    return None


def _imported_elsewhere(package: str) -> str | None:
    """Place of a package that was imported, and not from here."""
    spec = getattr(sys.modules.get(package), "__spec__", None)
    return None if spec is None or spec.origin == ORIGIN else _place(spec)


def found_elsewhere(name: str, path: Sequence[str] | None = None) -> str | None:
    """Place of a package or module that another finder finds; None: xpcap supplies it.

    path : folders of the package that the module is in
    """
    others = (finder for finder in sys.meta_path if not isinstance(finder, CourseFinder))
    places = (_place(finder.find_spec(name, path)) for finder in others)
    return next((place for place in places if place is not None), None)


def _used(package: str, found: str) -> str:
    return (
        f"xpcap.course: {package} is the package in {found}, which is used as it is, unfinished"
        " functions included; modules that it lacks come from xpcap; to use xpcap's functions"
        " instead, restart Python and begin with: import xpcap.course; xpcap.course.override()"
    )


def _lacking(name: str, package: str, known: Iterable[str]) -> str:
    why = ""
    if "pytorch" in name:
        why = "; from 2025 on the exercise is in PyTorch, whose autograd takes the backward passes"
    return (
        f"xpcap.course: {name} is not among what xpcap has of the course, {', '.join(known)}{why};"
        f" for more, put the course's own folder {package}/ next to the notebook"
    )
