"""Run the notebooks of docs/tutorials/ with this Python, for tests and `make notebooks`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
# Those of docs/howto need a GPU; they are not run, and have no outputs
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
SETTINGS = {
    # The same sums on any number of cores, and fastest for small products
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
WRITTEN_TO = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(
    notebook: nbformat.NotebookNode,
    environment: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> None:
    """Run a notebook from top to bottom and store its outputs. CellExecutionError : a cell fails.

    It runs in the folder `work`; None: in the temporary folder for files of Jupyter and IPython.
    Without kernel folders, Jupyter uses this interpreter's ipykernel instead of installed kernels.
    Times and versions are left out, so that equal runs give equal files.
    """
    with TemporaryDirectory() as folder:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        env = {
            **os.environ,
            "PYTHONPATH": paths,
            **SETTINGS,
            **dict.fromkeys(WRITTEN_TO, folder),
            **(environment or {}),
        }
        manager = AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            connection_file=str(Path(folder, "kernel.json")),
            transport="tcp" if os.name == "nt" else "ipc",  # ipc opens no port
        )
        client = NotebookClient(
            notebook, km=manager, timeout=600, record_timing=False, coalesce_streams=True
        )
        client.execute(cleanup_kc=True, cwd=str(work or folder), env=env)
    notebook.metadata = nbformat.from_dict(METADATA)


def main() -> None:
    """Run every notebook and save it with its outputs."""
    for path in NOTEBOOKS:
        print(path.relative_to(ROOT), flush=True)
        notebook = nbformat.read(path, as_version=4)
        run(notebook)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
