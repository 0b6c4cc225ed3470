"""Generated pictures: seeded scenes of one to three shapes, each with five captions, to try everything without a download.

Held-out scenes combine what was seen apart: no two things of a val scene are of kinds that any training scene has together, and a single thing
lies where none of its kind does in train; all kinds, places and arrangements are in train. Which is which does not depend on the seed.
"""

import re
from pathlib import Path

import numpy as np

from xpcap.data.dataset import CaptionData, Split
from xpcap.data.pictures.best import best_captions
from xpcap.data.pictures.grammar import describe, named
from xpcap.data.pictures.scenes import SPLITS, Scene, make_scene, paint
from xpcap.data.vocabulary import Vocabulary
from xpcap.encoders import HistogramEncoder
from xpcap.errors import DataError

__all__ = ["BEST_PROTOCOL", "KIND", "NAMED_PROTOCOL", "best_of", "generate", "named", "picture_of", "write_pictures"]
CAPTIONS = 5  # for each picture
MAX_WORDS = 25  # more than the grammar ever says
KIND = "pictures"  # how a data set's source says that it was generated here
NAMED_PROTOCOL = "share of captions that name exactly the (colour, shape) pairs of their scene, none missing and none made up"
BEST_PROTOCOL = (
    "the same of captions chosen by one who knows every scene and the grammar, but not the references: the most promising found in 16 searches"
)


def generate(seed: int = 0, train: int = 15000, val: int = 500) -> CaptionData:
    """Generated pictures as CaptionData, features by HistogramEncoder.

    Parameters
    ----------
    seed : of scenes and captions
    train, val : numbers of scenes; scene i of a split is the same whatever these are

    Notes
    -----
    Pictures are called ``train00000.png`` and so on; `picture_of` draws one from its name.
    """
    encoder, features, texts = HistogramEncoder(), {}, {}
    for split, count in zip(SPLITS, (train, val), strict=True):
        rng = np.random.default_rng([seed, len(SPLITS) + SPLITS.index(split)])
        scenes = [make_scene(split, number, seed) for number in range(count)]
        features[split] = encoder.encode(paint(scene) for scene in scenes)
        texts[split] = [describe(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
    vocabulary = Vocabulary.build(texts["train"], min_count=1)
    splits = {
        split: Split(
            captions=vocabulary.encode(texts[split], MAX_WORDS),
            image_idxs=np.repeat(np.arange(len(features[split]), dtype=np.int32), CAPTIONS),
            features=features[split],
            images=[f"{split}{number:05d}.png" for number in range(len(features[split]))],
            text=texts[split],
        )
        for split in SPLITS
    }
    return CaptionData(vocabulary, splits, {"generated": KIND, "encoder": encoder.name, "seed": seed, "train": train, "val": val})


def picture_of(name: str, seed: int = 0) -> np.ndarray:
    """The generated picture of that name, drawn again: (128, 128, 3), uint8.

    Raises
    ------
    DataError : no name of a generated picture.
    """
    return paint(_scene_of(name, seed))


def write_pictures(folder: Path, data: CaptionData, split: str) -> None:
    """Write the pictures of a split of generated pictures to a new folder, as PNGs.

    Raises
    ------
    OSError : the place cannot be written to; the folder is not there then.
    """
    from PIL import Image

    temporary = folder.with_name(f".{folder.name}.part")
    temporary.mkdir()
    for name in data.split(split).images:
        Image.fromarray(picture_of(name, data.source["seed"])).save(temporary / name)
    temporary.rename(folder)


def best_of(names: list[str], seed: int = 0) -> list[str]:
    """For generated pictures the captions of one who knows scenes and grammar, and wants the best corpus BLEU-4: see `best_captions`."""
    return best_captions([_scene_of(name, seed) for name in names], CAPTIONS)


def _scene_of(name: str, seed: int) -> Scene:
    match = re.fullmatch(rf"({'|'.join(SPLITS)})(\d{{1,9}})\.png", name)
    if match is None:
        raise DataError(f"picture_of: {name!r} is no generated picture, expected a name such as val00012.png")
    return make_scene(match[1], int(match[2]), seed)
