"""The course's modules, filled with xpcap's functions, and the finder that imports them."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from xpcap import data, gradcheck, layers, models, optim
from xpcap.cs231n.data import image_from_url
from xpcap.cs231n.table import FILES, PACKAGE, functions
from xpcap.training import solver

NAMES = (PACKAGE, "deeplearning")  # of the package, at Stanford and at Berkeley
ORIGIN = __file__  # of the modules made here; Python's message about a missing name shows it
# Module of the table to the module of xpcap that defines its functions
SOURCES = {"rnn_layers": layers, "rnn": models, "optim": optim, "captioning_solver": solver}


def _content(module: ModuleType, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


# Name of a module in the course's package to its content
MODULES: dict[str, dict[str, Any]] = {
    **{
        FILES[name].removesuffix(".py").replace("/", "."): _content(
            module, (row.defined for row in functions([name]))
        )
        for name, module in SOURCES.items()
    },
    "layers": _content(
        layers, ("affine_forward", "affine_backward", "dropout_forward", "dropout_backward")
    ),
    "coco_utils": _content(data, ("load_coco_data", "decode_captions", "sample_coco_minibatch")),
    "gradient_check": _content(
        gradcheck,
        ("eval_numerical_gradient", "eval_numerical_gradient_array", "grad_check_sparse"),
    ),
    "image_utils": {"image_from_url": image_from_url},
}
PACKAGES = {name.rpartition(".")[0] for name in MODULES}


class CourseFinder(MetaPathFinder, Loader):
    """Finds the course's modules, unless a package of that name has them.

    It fills them with xpcap's functions and classes, whose `__module__` stays. It does not put the
    modules into `sys.modules` at once: they would hide a package that is added to the path later,
    and could not be reloaded.

    overrides : ignore that package
    """

    overrides = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of a module of the course; None if another finder should handle it.

        ModuleNotFoundError : the package is xpcap's, and has no such module.
        """
        package, _, name = fullname.partition(".")
        if package not in NAMES:
            return None
        if not name and not self.overrides and (folder := found_elsewhere(package)):
            # The level of the line that imports: frames of the import system do not count
            warnings.warn(_own_package(package, folder), stacklevel=2)
            return None
        supplied = name in MODULES or name in PACKAGES
        if name and _imported_elsewhere(package):
            in_package = found_elsewhere(fullname, path) is not None
            if in_package or not supplied:  # a student's folder may have rnn_layers.py alone
                return None
        if not supplied:
            known = [f"{package}.{module}" for module in sorted(MODULES)]
            # If `name` were set, `from package import module` would replace this message by a
            # shorter one
            raise ModuleNotFoundError(_missing(fullname, package, known))
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
            raise AttributeError(_missing(f"{module.__name__}.{attribute}", package, content))

        vars(module)["__getattr__"] = missing


FINDER = CourseFinder()


def install() -> None:
    """Serve the course's modules from xpcap from now on, in this process. A second call does nothing."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    for package in NAMES:
        if folder := _imported_elsewhere(package):
            warnings.warn(_own_package(package, folder), stacklevel=3)


def override() -> None:
    """Serve the course's modules from xpcap even if there is a package of that name, such as yours.

    ImportError : that package has been imported already, and notebooks hold its functions.
    """
    for package in NAMES:
        if folder := _imported_elsewhere(package):
            raise ImportError(
                f"xpcap.cs231n.course.override: {package} in {folder} is imported already, expected"
                " this call before its import; restart Python and make this call the first line"
            )
    FINDER.overrides = True


def _path_of(spec: ModuleSpec | None) -> str | None:
    """Folder of a package, or file of a module; None if there are no Python files in it.

    Python takes the course's folder for a package even if it holds only data.
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
    """Path of a package that was imported from elsewhere; None if it was not."""
    spec = getattr(sys.modules.get(package), "__spec__", None)
    return None if spec is None or spec.origin == ORIGIN else _path_of(spec)


def found_elsewhere(name: str, path: Sequence[str] | None = None) -> str | None:
    """Path of a package or module that another finder finds; None if xpcap serves it.

    path : folders of the package that the module is in
    """
    finders = (finder for finder in sys.meta_path if not isinstance(finder, CourseFinder))
    paths = (_path_of(finder.find_spec(name, path)) for finder in finders)
    return next((path for path in paths if path is not None), None)


def _own_package(package: str, folder: str) -> str:
    return (
        f"xpcap.cs231n.course: {package} is imported from {folder}, with its unfinished functions;"
        " modules that it lacks come from xpcap; to use xpcap's functions instead, restart Python and"
        " begin with: import xpcap.cs231n.course; xpcap.cs231n.course.override()"
    )


def _missing(name: str, package: str, known: Iterable[str]) -> str:
    cause = ""
    if "pytorch" in name:
        cause = "; since 2025 the exercise uses PyTorch, whose autograd does the backward passes"
    return (
        f"xpcap.cs231n.course: {name} is not in xpcap, which has {', '.join(known)} of the course"
        f"{cause}; for more, put the course's own folder {package}/ next to the notebook"
    )
