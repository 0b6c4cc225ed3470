"""What only the model shows: whether it looks at the picture, learns by heart, and has room left in its gates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xpcap.backend import to_numpy
from xpcap.data import CaptionData
from xpcap.data.dataset import spread
from xpcap.models.activations import activations
from xpcap.runs.captioning import captioned
from xpcap.runs.findings import Finding, Symptom
from xpcap.training.evaluate import teacher_forced

SCORED = 1000  # captions scored with the wrong picture, at most: the ratio is then good to a few per cent
READ = 256  # captions read to look at gates, at most: millions of activations
EXCHANGE = 0  # random stream of the exchange of pictures

# Runs learnt from 250 to 6,000 photographs 1.6 to 3.5, from generated pictures 13; from features without meaning 1.00.
FEATURES = Symptom("features", "perplexity with the wrong picture, over that with its own", check=1.2, bad=1.05, share=False)
# At a perplexity near 16, two per cent more loss are 6 % more perplexity, and ten per cent a third more.
OVERFITTING = Symptom("overfitting", "rise of validation loss since its lowest", check=0.02, bad=0.10)
# For runs that choose their epoch by captions: these got better (CIDEr 0.44 to 0.51) with an image in every step, at 4 % more loss.
OVERFITTING_BY_CAPTIONS = Symptom(OVERFITTING.name, OVERFITTING.title, check=0.10, bad=0.25)
# Good runs 0.3 with the image in the initial state, 0.65 with it in every step, 0.53 on generated pictures; with all weights three times as large 0.72
# to 0.88, ten times 0.91 to 0.96. On toy data learning rates of 0.01, 0.1, 0.3 and 1 leave 0.42, 0.76, 0.94 and 0.99, and captions that get worse.
GATES = Symptom("gates", "gates, or units of an RNN, at the ends of their range", check=0.8, bad=0.95)


def features(model: Any, data: CaptionData, split: str, alike: bool = False) -> Finding:
    """What the model makes of captions if each picture gets the features of another.

    Parameters
    ----------
    data : encoded with the model's vocabulary, features scaled
    alike : the training captions are, so that features cannot help
    """
    of, pictures = data.split(split), captioned(data, split)
    if len(pictures) < 2:
        return FEATURES.unknown("One picture cannot be exchanged for another: score a split with more pictures.")
    order = np.random.default_rng([0, EXCHANGE]).permutation(pictures)
    others = np.zeros(len(of.features), of.image_idxs.dtype)
    others[order] = np.roll(order, 1)  # no picture keeps its own
    exchanged = replace(data, splits={split: replace(of, image_idxs=others[of.image_idxs])})
    chosen = spread(len(of.captions), SCORED)
    own, wrong = (teacher_forced(model, seen, split, captions=chosen) for seen in (data, exchanged))
    ratio = math.exp(min((wrong.loss - own.loss) * own.n / max(own.tokens, 1), 700.0))
    return FEATURES.found(
        ratio,
        f"With the features of another picture, the perplexity of the references is {ratio:.2f} times as high.",
        "The captions hardly depend on the picture, as the training captions are alike: see above."
        if alike
        else "The captions hardly depend on the picture. Check that features and names of pictures belong together and that features differ from picture to "
        "picture, train with `feature_scaling` standardize, and for more epochs.",
    )


def overfitting(history: Sequence[Mapping[str, Any]], kept: Any) -> Finding:
    """Whether validation loss rose while training loss fell.

    Parameters
    ----------
    history : records of epochs
    kept : number of the epoch whose parameters the run keeps
    """
    if any("train_reward" in record for record in history):
        keeps = f"epoch {kept}, the best by CIDEr-D" if kept else "what it started from, since no epoch was better by CIDEr-D"
        return OVERFITTING.unknown(f"The run was trained on the score of captions, not on their loss; it keeps {keeps}.")
    records = [record for record in history if all(_positive(record.get(key)) for key in ("train_loss", "val_loss"))]
    if len(records) < 2:
        return OVERFITTING.unknown("history.jsonl has fewer than two epochs with a validation loss: nothing to compare.")
    best, last = min(records, key=lambda record: record["val_loss"]), records[-1]
    symptom = OVERFITTING_BY_CAPTIONS if "val_cider" in last else OVERFITTING
    first, then = ((record["train_loss"], record["val_loss"]) for record in (best, last))
    course = f"from {first[1]:.1f} after epoch {best['epoch']} to {then[1]:.1f} after epoch {last['epoch']}, training loss from {first[0]:.1f} to {then[0]:.1f}"
    meaning = f"Validation loss went {course}." if last is not best else f"Validation loss was lowest in the last epoch, {last['epoch']}."
    by_heart = (
        f"The later epochs learnt the training captions by heart; the run keeps epoch {kept}. More captions, more `dropout`, or fewer `hidden` units "
        "move the lowest point down."
    )
    diverging = "Training loss rose as well, so it is not the captions: train with a lower `lr`."
    return symptom.found(then[1] / first[1] - 1, meaning, by_heart if then[0] <= first[0] else diverging)


def gates(model: Any, data: CaptionData, split: str) -> Finding:
    """How much of the cell is saturated while it reads references. `data` as in `features`."""
    batch = data.minibatch(split, spread(len(data.split(split).captions), READ))
    shares = {}
    for name, (values, low, high) in activations(model, *batch).items():
        shares[name] = float(to_numpy(((values < low) | (values > high)).mean()))
    if not shares:
        return GATES.unknown("The cell does not say where its gates are.")
    share = sum(shares.values()) / len(shares)
    each = ", ".join(f"{name} {part:.1%}" for name, part in shares.items())
    return GATES.found(
        share,
        f"{share:.1%} of the cell's activations are so near an end of their range that hardly any gradient passes ({each}).",
        "Such a cell has stopped learning. Train with a lower `lr` and a lower `clip`, and with `feature_scaling` standardize if features are large.",
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
