"""Features of many pictures, one row a picture, that need not be in memory: rows of a file, rows in another order, rows put through a function."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.errors import DataError

AT_ONCE = 16 << 20  # bytes of rows that are read together
IN_MEMORY = 64 << 20  # bytes: larger tables stay on disk while a data set is made of them
Function = Callable[[np.ndarray], np.ndarray]


class Stored:
    """The rows (m, *shape) of an array in a file: rows of one size, at one distance. Indexing by numbers or a slice reads them.

    Parameters
    ----------
    path : of the file. It is opened for each reading, and must stay as it is
    start, step : bytes from the beginning of the file to the first row, and from one row to the next
    shape, dtype : of the whole array

    Raises
    ------
    DataError : on reading, if the file is not what it was.
    """

    def __init__(self, path: Path, start: int, step: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self._path, self._start, self._step = path, start, step
        self._was = _state(path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self))[which]
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        size = rows[:1].nbytes
        with self._path.open("rb", buffering=0) as file:
            for row, number in zip(rows.reshape(len(rows), -1).view(np.uint8), numbers.tolist(), strict=True):
                file.seek(self._start + number * self._step)
                if file.readinto(row.data) != size:
                    break
            if _state(self._path) != self._was:
                raise DataError(f"read_features: {self._path} was changed while it was read, expected it to stay as it is; run the command again")
        return rows.astype(self.dtype.newbyteorder("="), copy=False)


class Picked:
    """Rows of `rows`, an array or what is indexed like one, in the order of `numbers` (n,), each block of them put through `then`.

    `then` maps (k, *shape) to as many rows and is called when rows are read.
    """

    def __init__(self, rows: Any, numbers: np.ndarray, then: Function | None = None) -> None:
        self._rows, self._numbers, self._then = rows, numbers, then
        like = self[:1]
        self.shape, self.dtype = (len(numbers), *like.shape[1:]), like.dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        rows: np.ndarray = self._rows[self._numbers[which]]
        return rows if self._then is None else self._then(rows)


class Table(Mapping[str, np.ndarray]):
    """Features by the name of their picture.

    Parameters
    ----------
    numbers : name to row
    rows : (m, *shape), an array or `Stored`
    """

    def __init__(self, numbers: Mapping[str, int], rows: Any) -> None:
        self.numbers, self.rows = numbers, rows

    def __getitem__(self, name: str) -> np.ndarray:
        number = self.numbers[name]
        row: np.ndarray = self.rows[number : number + 1][0]
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def pick(self, names: Sequence[str], then: Function | None = None) -> Any:
        """The rows of these pictures, in that order, each put through `then`: an array if the table is one, else `Picked`."""
        picked = Picked(self.rows, np.array([self.numbers[name] for name in names], np.int64), then)
        return whole(picked) if isinstance(self.rows, np.ndarray) else picked


def blocks(rows: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows of an array, or of what is indexed like one, a block at a time: (where, rows). Equal shapes and dtypes have equal blocks."""
    step = max(1, AT_ONCE // max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:]))))
    for start in range(0, len(rows), step):
        where = slice(start, min(start + step, len(rows)))
        yield where, rows[where]


def whole(rows: Any) -> np.ndarray:
    """All rows as one array."""
    made = np.empty(rows.shape, rows.dtype)
    for where, block in blocks(rows):
        made[where] = block
    return made


def _state(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
