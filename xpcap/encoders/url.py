"""Read a picture from a URL."""

import numpy as np

from xpcap.encoders.pictures import read_picture
from xpcap.errors import DataError, without_subject
from xpcap.progress import say

SECONDS = 20.0


def read_url(url: str, *, timeout: float = SECONDS) -> np.ndarray:
    """Download a picture: array (height, width, 3), uint8, RGB.

    It connects to any server that this machine can reach, including local ones, uses the proxies of
    the environment or system, and follows redirects: do not pass untrusted URLs.

    timeout : seconds to wait for the server, and for the complete content
    DataError : the download failed. NetworkError, a subclass : another try may succeed.
    """
    from xpcap.encoders.download import download

    content = download(url, timeout)
    try:
        return read_picture(content)
    except DataError as error:
        raise DataError(f"{url} {without_subject(error, 'the picture')}") from error


def image_from_url(url: str, *, timeout: float = SECONDS) -> np.ndarray | None:
    """CS231n's function: `read_url`, but it prints errors and returns None, so a notebook goes on."""
    try:
        return read_url(str(url), timeout=timeout)
    except DataError as error:
        say(f"image_from_url: {error}")
        return None
