"""The shape of the house: imports point down and never round, and only one file knows cupy."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from programs import program

PACKAGE = Path(__file__).parents[2] / "xpcap"
BENCHMARKS = PACKAGE.parent / "benchmarks"
LEVELS = [
    {"errors", "progress", "signatures", "threads"},
    {"device"},
    {"backend", "files", "options"},
    {"spec", "safetensors_file", "json_text", "onnx_graph", "metrics"},
    {"memory", "distributed", "gradcheck", "growing"},
    {"ops", "work"},
    {"layers", "optim"},
    {"decoding"},
    {"models"},
    {"data", "encoders"},
    {"prepare", "ranking", "shapes", "training"},
    {"report"},
    {"runs"},
    {"exercise", "export"},
    {"verify", "grading", "course", "testing"},
    {"cli"},
    {"__main__"},
]


def level(part: str) -> int:
    return next(i for i, parts in enumerate(LEVELS) if part in parts)


def imports(file: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files() -> list[tuple[str, Path]]:
    """Every file of the package with the part it belongs to; the package's own __init__ stands
    above all.
    """
    return [
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path)
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    ]


def test_imports_point_down() -> None:
    known = {part for parts in LEVELS for part in parts}
    seen = 0
    for part, path in files():
        for name in imports(path):
            if name.split(".")[0] == "xpcap":
                target = name.split(".")[1]
                if target not in known:
                    assert target == "__version__", f"{path}: imports {name}"
                    continue
                seen += 1
                assert target == part or level(target) < level(part), (
                    f"{path}: {part} imports {target}, which stands no lower"
                )
    assert seen > 60


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def test_no_file_imports_itself_by_way_of_others() -> None:
    modules = {
        module(path): path for folder in (PACKAGE, BENCHMARKS) for path in folder.rglob("*.py")
    }
    graph = {}
    for (
        name,
        path,
        # `from xpcap.data import hdf5` imports a file, `from xpcap.data import open_data` a name of
        # its
        # folder's
    ) in modules.items():
        owners = (
            imported if imported in modules else imported.rpartition(".")[0]
            for imported in imports(path)
        )
        graph[name] = {owner for owner in owners if owner in modules} - {name}
    try:
        assert len(list(TopologicalSorter(graph).static_order())) == len(modules) > 60
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_a_lock_that_outlives_a_call_is_one_that_a_forked_process_finds_free() -> None:
    """threading's own are made in threads.py alone, and by functions for themselves."""

    def makers(path: Path) -> list[str]:
        tree = ast.parse(path.read_text())
        local = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for line in ast.walk(function)
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
            for node in ast.walk(line.value)
        }
        names = ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore")
        return [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "threading"
            if node.attr in names and id(node) not in local
        ]

    makers_of = {path.name: makers(path) for _, path in files() if path.name != "threads.py"}
    assert [line for lines in makers_of.values() for line in lines] == []


def test_cupy_is_imported_in_one_file() -> None:
    importers = {
        path.name
        for _, path in files()
        if any(name.split(".")[0] in ("cupy", "cupyx") for name in imports(path))
    }
    assert importers == {"probe.py"}


def test_packages_with_telemetry_are_imported_in_one_file_each() -> None:
    """Where `telemetry_off` is around the import; test_safety.py shows that it works."""
    importers = {
        name: {
            path.name
            for _, path in files()
            if name in {whole.split(".")[0] for whole in imports(path)}
        }
        for name in ("onnxruntime", "timm")
    }
    assert importers == {"onnxruntime": {"onnx.py"}, "timm": {"timm_model.py"}}


def test_the_package_knows_nothing_of_benchmarks() -> None:
    assert not [
        path
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "benchmarks" for name in imports(path))
    ]


def test_torch_is_imported_in_few_files_and_only_when_it_is_used() -> None:
    paths = [*PACKAGE.rglob("*.py"), *BENCHMARKS.glob("*.py")]
    importers = {
        path.name for path in paths if any(name.split(".")[0] == "torch" for name in imports(path))
    }
    assert importers == {"timm_model.py", "peer_torch.py", "ranks.py"}
    program(
        "import sys; import xpcap.cli, benchmarks.__main__, benchmarks.ranks; sys.exit('torch' in"
        " sys.modules)",
        flags=(),
    )


@pytest.mark.slow
def test_gpu_tests_are_collected_with_the_few_packages_that_gpu_machines_have() -> None:
    """numpy, h5py, click, tqdm, safetensors and pytest: the rest is imported where it is used."""
    absent = ("nltk", "PIL", "matplotlib", "jinja2", "filelock", "hypothesis")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest;"
        " sys.exit(pytest.main(sys.argv[1:]))"
    )
    arguments = ["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]
    # hypothesis comes with a plugin that needs it
    program(code, *arguments, flags=(), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_every_part_is_on_a_level() -> None:
    assert {part for part, _ in files()} == {part for parts in LEVELS for part in parts}
