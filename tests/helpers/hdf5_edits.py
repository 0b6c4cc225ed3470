"""Changes to HDF5 files, for tests of what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py


def edit(change: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return run


def replace_dataset(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value
