"""Picture files to arrays."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from xpcap.errors import DataError


def read_picture(source: Path | BinaryIO) -> np.ndarray:
    """A picture file as an array (height, width, 3), uint8, RGB. DataError : it is no picture."""
    from PIL import Image

    try:
        with Image.open(source) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise DataError(f"read_picture: {source} is no picture ({error})") from error
