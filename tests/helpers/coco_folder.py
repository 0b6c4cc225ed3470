"""CS231n's coco_captioning folder: its file names, keys and dtypes, with drawn content."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(96))]
VOCABULARY = {"idx_to_word": WORDS, "word_to_idx": {word: i for i, word in enumerate(WORDS)}}
SIZES = (("", 4096), ("_pca", 512))


def build_coco(
    folder: Path,
    rng: np.random.Generator,
    vocabulary: dict[str, Any] = VOCABULARY,
    sizes: tuple[tuple[str, int], ...] = SIZES,
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "coco2014_vocab.json").write_text(json.dumps(vocabulary))
    with h5py.File(folder / "coco2014_captions.h5", "w") as file:
        for split, n, m in (("train", 30, 9), ("val", 12, 5)):
            captions = np.zeros((n, 17), np.int32)
            for row in captions:
                length = rng.integers(3, 16)
                row[: length + 2] = [1, *rng.integers(4, len(vocabulary["idx_to_word"]), length), 2]
            file[f"{split}_captions"] = captions
            file[f"{split}_image_idxs"] = rng.integers(0, m, n).astype(np.int32)
            for suffix, size in sizes:
                with h5py.File(folder / f"{split}2014_vgg16_fc7{suffix}.h5", "w") as features:
                    features["features"] = rng.standard_normal((m, size)).astype(np.float32)
            (folder / f"{split}2014_urls.txt").write_text(
                "".join(f"http://farm{i}.staticflickr.com/{split}/{i}_z.jpg\n" for i in range(m))
            )
            (folder / f"{split}2014_images.txt").write_text(
                "".join(f"{split}2014/COCO_{split}2014_{i:012}.jpg\n" for i in range(m))
            )
    return folder
