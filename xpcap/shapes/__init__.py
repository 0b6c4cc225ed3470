"""Generated pictures: scenes of one to three shapes, five captions each. Open scenes.py first.

grammar.py has the captions. The val split tests new combinations: no two kinds of a val scene are
together in a training scene, and a single thing of a val scene lies where its kind never lies alone
in train. All kinds, positions and arrangements occur in train. What is held out does not depend on
the seed.
"""

from pathlib import Path

import numpy as np

from xpcap.data.dataset import CaptionData, Source, Split
from xpcap.data.vocabulary import Vocabulary, tokenize
from xpcap.encoders import HistogramEncoder
from xpcap.errors import DataError
from xpcap.files import new_folder
from xpcap.options import SEED, Whole
from xpcap.progress import bar
from xpcap.shapes.grammar import CAPTIONS, describe, named
from xpcap.shapes.scenes import SPLITS, make_scene, paint, scene_of
from xpcap.shapes.scoring import KIND, is_generated, metrics_of

__all__ = [
    "KIND",
    "generate",
    "is_generated",
    "metrics_of",
    "named",
    "picture_of",
    "write_pictures",
]
TRAIN, VAL = 21000, 500  # pictures
MAX_WORDS = 25  # more than the grammar ever says


def generate(
    seed: int = 0, *, train: int = TRAIN, val: int = VAL, progress: bool | None = None
) -> CaptionData:
    """Generated pictures with captions, and features by HistogramEncoder, as a data set.

    Parameters
    ----------
    seed : int
        Of scenes and captions.
    train : int
        Number of scenes for training; scene i of a split does not depend on it.
    val : int
        Number of scenes for validation.
    progress : bool or None
        Show a progress bar on a terminal. None: as the work in hand does, by default not.

    Returns
    -------
    data : CaptionData

    Raises
    ------
    OptionError
        A number is below 0.

    Notes
    -----
    Pictures are called ``train00000.png`` and so on; `picture_of` draws one from its name.
    """
    seed = SEED.check("generate", "`seed`", seed)
    train = Whole(0).check("generate", "`train`", train)
    val = Whole(0).check("generate", "`val`", val)
    encoder, features, texts = HistogramEncoder(), {}, {}
    for split, count in zip(SPLITS, (train, val), strict=True):
        rng = np.random.default_rng([seed, len(SPLITS) + SPLITS.index(split)])
        scenes = [make_scene(split, number, seed) for number in range(count)]
        features[split] = encoder.encode(
            paint(scene) for scene in bar(scenes, f"drawing pictures of {split}", shown=progress)
        )
        texts[split] = [describe(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
    words = {split: [tokenize(text) for text in texts[split]] for split in SPLITS}
    vocabulary = Vocabulary.build_from_words(words["train"], min_count=1)
    splits = {
        split: Split(
            captions=vocabulary.encode_words(words[split], MAX_WORDS),
            image_idxs=np.repeat(np.arange(len(features[split]), dtype=np.int32), CAPTIONS),
            features=features[split],
            images=[f"{split}{number:05d}.png" for number in range(len(features[split]))],
            text=texts[split],
        )
        for split in SPLITS
    }
    return CaptionData(
        vocabulary,
        splits,
        source=Source(
            encoder=encoder.name,
            generated=KIND,
            seed=seed,
            record={"train": train, "val": val},
        ),
    )


def picture_of(name: str, seed: int = 0) -> np.ndarray:
    """The generated picture of a name, drawn again: (128, 128, 3), uint8.

    DataError : not the name of a generated picture.
    """
    return paint(scene_of(name, seed))


def write_pictures(folder: str | Path, data: CaptionData, split: str) -> None:
    """Write the pictures of a generated split to a new folder, as PNGs.

    DataError : the data was not generated, or by a former version, which drew others; something is
        there, or no folder can be made there. OSError : it cannot be written;
        then nothing is left of it.
    """
    from PIL import Image

    if data.source.generated != KIND or data.source.seed is None:
        came, expected = f"was made as {data.source.generated!r}", f"{KIND!r}, as of `generate`"
        raise DataError("write_pictures", "the data", came, expected)
    with new_folder("write_pictures", folder) as part:
        for name in data.split(split).images:
            Image.fromarray(picture_of(name, data.source.seed)).save(part / name)
