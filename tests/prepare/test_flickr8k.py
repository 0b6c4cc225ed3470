"""On real captions (XPCAP_DATA): overfitting fifty of them, and the commands from token file to
scores.
"""

import json
from pathlib import Path

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


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.nightly)])
def test_fifty_captions_are_learnt_by_heart(flickr: Path, cell: str) -> None:
    """Of the first of each of fifty training pictures, as the course's dict."""
    images = read_list(flickr / "Flickr_8k.trainImages.txt")[:50]
    captions = by_picture(read_captions([(None, flickr / "Flickr8k.token.txt")]))
    table = read_features(flickr / "features_efficientnet_lite2.npz")
    features = np.stack([table[image] for image in images])
    vocabulary = Vocabulary.build([text for image in images for text in captions[image]], 1)
    data = {
        "train_captions": vocabulary.encode([captions[image][0] for image in images], 30),
        "train_image_idxs": np.arange(50),
        "train_features": fit_scaling("standardize", features)(features),
        "idx_to_word": vocabulary.idx_to_word,
        "word_to_idx": vocabulary.word_to_idx,
    }
    model = CaptioningRNN(vocabulary.word_to_idx, 1280, 128, 256, cell, seed=231)
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config={"learning_rate": 1e-2},
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
    """A fifteenth of the train split, for some seconds: far better than chance. The whole is a row in
    docs/explain/benchmarks.md.
    """
    monkeypatch.chdir(tmp_path)
    for split, name, number in (("train", "train", 400), ("val", "dev", 50)):
        names = read_list(flickr / f"Flickr_8k.{name}Images.txt")[:number]
        Path(f"{split}.txt").write_text("\n".join(names))
    options = "--split train=train.txt --split val=val.txt --out part.h5 --features".split()
    features = flickr / "features_efficientnet_lite2.npz"
    good("prepare", flickr / "Flickr8k.token.txt", *options, features)
    sizes = "--hidden 96 --lr 0.005 --epochs 5 --score-epochs 0".split()
    good("train", "part.h5", "--out", "run", *sizes)
    result = json.loads(good("evaluate", "run", "--json").stdout)
    words = json.loads(Path("run/config.json").read_text())["vocabulary"]
    assert result["n"] == 50
    assert result["perplexity"] < words / 10
    assert result["bleu"][0] > 0.3
