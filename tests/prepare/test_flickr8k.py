"""On real captions (XPCAP_DATA): overfitting fifty of them, and the commands from token file to
scores.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caption_formats import by_picture
from commands import good

from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.data import Vocabulary
from xpcap.data.features import fit_scaling
from xpcap.prepare import read_captions, read_features
from xpcap.prepare.text import read_list

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flickr(real_data: Path) -> Path:
    return real_data / "flickr8k"


def fifty(flickr: Path) -> tuple[dict[str, Any], Vocabulary]:
    """The first caption of each of fifty training pictures, as the course's dict, encoded with the
    vocabulary that `prepare` makes.
    """
    images = read_list(flickr / "Flickr_8k.trainImages.txt")
    captions = by_picture(read_captions([(None, flickr / "Flickr8k.token.txt")]))
    features = read_features(flickr / "features_efficientnet_lite2.npz")
    texts = (text for image in images for text in captions[image])
    vocabulary = Vocabulary.build(texts, min_count=5)
    known = np.stack([features[image] for image in images])
    first = [captions[image][0] for image in images[:50]]
    data = {
        "train_captions": vocabulary.encode(first, max_words=30),
        "train_image_idxs": np.arange(50),
        "train_features": fit_scaling("standardize", known)(known[:50]),
        "idx_to_word": vocabulary.idx_to_word,
        "word_to_idx": vocabulary.word_to_idx,
    }
    return data, vocabulary


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.nightly)])
def test_fifty_captions_are_learnt_by_heart(flickr: Path, cell: str) -> None:
    data, vocabulary = fifty(flickr)
    model = CaptioningRNN(vocabulary.word_to_idx, 1280, 256, 512, cell, seed=231)
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config={"learning_rate": 5e-3},
        lr_decay=0.995,
        batch_size=25,
        num_epochs=50,
        seed=231,
        verbose=False,
    )
    solver.train()
    assert solver.loss_history[-1] < 0.2
    said = model.sample(data["train_features"], max_length=31)
    assert (said == data["train_captions"][:, 1:]).all(axis=1).sum() >= 48


def test_the_commands_learn_from_real_captions(
    flickr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the train split, for some seconds: far better than chance. The whole is a row in
    docs/explain/benchmarks.md.
    """
    monkeypatch.chdir(tmp_path)
    for split, name, number in (("train", "train", 600), ("val", "dev", 100)):
        names = read_list(flickr / f"Flickr_8k.{name}Images.txt")[:number]
        Path(f"{split}.txt").write_text("\n".join(names))
    options = "--split train=train.txt --split val=val.txt --out part.h5 --features".split()
    features = flickr / "features_efficientnet_lite2.npz"
    good("prepare", flickr / "Flickr8k.token.txt", *options, features)
    good("train", "part.h5", "--out", "run", "--hidden", 128, "--epochs", 6)
    result = json.loads(good("evaluate", "run", "--json").stdout)
    words = json.loads(Path("run/config.json").read_text())["vocabulary"]
    assert result["n"] == 100
    assert result["perplexity"] < words / 10
    assert result["bleu"][0] > 0.3
