"""The two stages of a run: cross entropy in a folder of its own inside the run's, then training on the score, which starts from what that says best."""

from dataclasses import replace
from pathlib import Path

from xpcap.runs.folder import read_config, read_history
from xpcap.runs.options import TrainOptions, options_of
from xpcap.runs.place import FIRST, has_run
from xpcap.runs.starting import options_from
from xpcap.training.objectives import CROSS_ENTROPY, SELF_CRITICAL


def has_first(out: Path) -> bool:
    """Whether the folder `out` is a run of two stages, of which the first has begun."""
    return has_run(out / FIRST)


def is_staged(options: TrainOptions, out: Path) -> bool:
    """Whether training with these options has two stages: where the options ask for a second one and `out` is no run of cross entropy alone."""
    wanted = options.score_epochs > 0 and options.objective == CROSS_ENTROPY
    return wanted and not (has_run(out) and read_config(out)["objective"] == CROSS_ENTROPY)


def first_stage(options: TrainOptions, out: Path) -> TrainOptions | None:
    """The options of the first stage of training that has two. It goes on where it was; None if it is done, as the second has begun."""
    return None if has_run(out) else replace(options, out=out / FIRST, resume=True)


def second_stage(options: TrainOptions, out: Path) -> TrainOptions:
    """The options of the second stage, once the first is done: its own, if it has begun."""
    if has_run(out):
        begun = options_of(read_config(out), out)
        return replace(begun, data=options.data or begun.data, save_every=options.save_every, resume=True)
    chosen = options_from(out / FIRST, {"objective": SELF_CRITICAL})
    kept = {name: getattr(options, name) for name in ("samples", "sharpen", "seed", "save_every")}
    return replace(chosen, out=out, epochs=options.score_epochs, data=options.data or chosen.data, resume=True, **kept)


def first_is_better(out: Path) -> str | None:
    """What to say where both stages are done and the first says the better captions of the val split; None: it does not, or they were not scored."""
    first, second = (max((record.get("val_cider", 0.0) for record in read_history(folder)), default=0.0) for folder in (out / FIRST, out))
    if first <= second:
        return None
    return (
        f"training on the score made captions no better: CIDEr {second:.3f} after it, {first:.3f} before; use the run {out / FIRST}, "
        "or train on the score for fewer epochs"
    )
