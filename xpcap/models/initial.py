"""Initial weights, drawn on the host in the course's order."""

import numpy as np

from xpcap.models.parameters import Parameters

ORDER = ("W_embed", "W_proj", "Wx", "Wh", "W_vocab", "W_image", "Wattn")  # the course's, and what it does not have; biases start at zero
SHRUNK = {"W_image": 4, "Wattn": 4}  # drawn so many times smaller: the image is to begin as a small part of a step


def draw_weights(params: Parameters, rng: np.random.Generator | None) -> None:
    """Draw each weight from randn / sqrt(rows), W_embed from randn / 100. Without a generator the draws come from NumPy's legacy global stream."""
    params.flat[...] = 0
    for name in (name for name in ORDER if name in params):
        shape = params.shapes[name]
        draw = np.random.randn(*shape) if rng is None else rng.standard_normal(shape)
        params[name] = draw / (100 if name == "W_embed" else SHRUNK.get(name, 1) * np.sqrt(shape[0]))
