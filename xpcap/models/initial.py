"""Initial weights, drawn on the host in the course's order."""

import numpy as np

from xpcap.models.config import ModelConfig
from xpcap.models.parameters import Parameters

SHRUNK = {"W_image": 4, "Wattn": 4}  # drawn so many times smaller: the image is to begin as a small part of a step


def draw_weights(config: ModelConfig, params: Parameters, rng: np.random.Generator | None) -> None:
    """Draw each weight from randn / sqrt(rows), W_embed from randn / 100; biases start at zero.

    Without a generator the draws come from NumPy's legacy global stream, as in the course.
    """
    params.flat[...] = 0
    course = ("W_embed", "W_proj", *config.cell_shapes(), "W_vocab")
    for name in (*course, "W_image", "Wattn"):
        shape = params.shapes.get(name, ())
        if len(shape) < 2:
            continue
        draw = np.random.randn(*shape) if rng is None else rng.standard_normal(shape)
        params[name] = draw / (100 if name == "W_embed" else SHRUNK.get(name, 1) * np.sqrt(shape[0]))
