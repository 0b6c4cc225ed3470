"""A folder of noisy pictures with captions, and how to prepare it."""

from pathlib import Path

import caption_formats
import numpy as np


def photos(count: int) -> list[str]:
    """Pictures of noise in the folder photos, and captions.csv of two sentences for each. A picture
    depends on its number alone.
    """
    from PIL import Image  # machines with a GPU do without it

    Path("photos").mkdir()
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        picture = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        picture[:, :10] //= 1 + 3 * (number % 2)
        Image.fromarray(picture).save(Path("photos") / name)
    captions = {
        name: ["a dog runs", "the dark dog" if number % 2 else "the light cat"]
        for number, name in enumerate(names)
    }
    Path("captions.csv").write_bytes(caption_formats.table(captions))
    return names


PREPARE = "prepare captions.csv --pictures photos --encoder histogram --min-count 1".split()
