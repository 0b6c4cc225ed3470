"""Pictures by URL: one URL in, one array out."""

import numpy as np

from xpcap.encoders.pictures import read_picture
from xpcap.errors import DataError, sentence
from xpcap.progress import say

SECONDS = 20.0


def read_url(url: str, *, timeout: float = SECONDS) -> np.ndarray:
    """Download a picture: array (height, width, 3), uint8, RGB.

    Any server that this machine reaches may be asked, also its own, through the proxies that the
    environment or the system names, and redirects are followed: do not pass on a stranger's URL.

    timeout : seconds without a word of the server, and for the content of its answer
    DataError : the download failed, for the reason in the message; NetworkError, a kind of it, if
        another try may succeed.
    """
    from xpcap.encoders.download import download

    content = download(url, timeout)
    try:
        return read_picture(content)
    except DataError as error:
        raise DataError("read_url", url, *error.args[2:]) from error


def image_from_url(url: str, *, timeout: float = SECONDS) -> np.ndarray | None:
    """CS231n's function: `read_url` that prints errors and returns None: a notebook goes on."""
    try:
        return read_url(str(url), timeout=timeout)
    except DataError as error:
        say(sentence("image_from_url", *error.args[1:]))
        return None
