"""What a run is made with: the options of `train`, their defaults, and the names of what a run on generated pictures keeps."""

from dataclasses import dataclass, replace
from pathlib import Path

DATA, PICTURES = "data.h5", "pictures"  # of generated pictures: captions and features, and the val split as PNGs


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`; their defaults are stated here, those for generated pictures in GENERATED, and nowhere else."""

    data: Path | None = None  # None: generated pictures
    out: Path | None = None  # None: a fresh folder under runs/
    cell: str = "lstm"
    hidden: int = 512
    wordvec: int = 256
    epochs: int = 12
    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float = 0.9
    clip: float = 50.0
    dropout: float = 0.5
    feature_scaling: str = "standardize"
    seed: int = 0


# Fifteen thousand scenes want few passes and no dropout. Their features keep their scale: standardising would blow up the rare ones,
# and a captioner that learns by heart from those does not carry over to combinations it has not seen.
GENERATED = TrainOptions(hidden=256, wordvec=128, epochs=4, batch_size=32, lr=2e-3, lr_decay=0.5, dropout=0.0, feature_scaling="none")


def defaults(data: Path | None) -> TrainOptions:
    """The options that `train` has where none are given."""
    return replace(GENERATED if data is None else TrainOptions(), data=data)


def with_out(options: TrainOptions) -> TrainOptions:
    """The options with a place to write to: where none is given, the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    if options.out is not None:
        return options
    name = f"{options.data.resolve().stem if options.data else 'pictures'}-{options.cell}"
    k = 1
    while (path := Path("runs") / (name if k == 1 else f"{name}-{k}")).exists():
        k += 1
    return replace(options, out=path)
