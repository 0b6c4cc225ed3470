"""The two stages of a run: cross entropy in a folder of its own inside the run's, then training on the score, which starts from the best of that."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from xpcap.runs.folder import FIRST, Run, read_config, read_history
from xpcap.runs.options import TrainOptions, options_of
from xpcap.runs.place import has_run
from xpcap.runs.starting import options_from
from xpcap.training.history import best_of
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


def learnt(run: Run) -> tuple[list[dict[str, Any]], Any]:
    """The records of the training that a run's parameters are from, and the number of their epoch: those of the first stage where it is the better."""
    kept = run.meta.get("epoch")
    first = read_history(run.path / FIRST) if kept == 0 else []
    best = best_of(first)
    return (read_history(run.path), kept) if best is None else (first, best.get("epoch"))


def origin(run: Run) -> str:
    """The epoch, and of two stages the stage, that a run's parameters are from, in a sentence."""
    records, kept = read_history(run.path), run.meta.get("epoch")
    epochs = max((record.get("epoch", 0) for record in records), default=kept)
    first = read_history(run.path / FIRST)
    if not first:
        if kept == 0:
            return f"Captions are those of {run.config['start']}, which training started from: none of {epochs} epochs made them better."
        return f"Captions come from epoch {kept} of {epochs}."
    best = best_of(first) or {}
    before = next((record for record in records if record.get("epoch") == 0), best).get("val_cider")
    if kept == 0:
        reached = max((record["val_cider"] for record in records if record.get("epoch") and "val_cider" in record), default=None)
        return (
            f"Captions come from the first of two stages, cross entropy (epoch {best.get('epoch')} of {len(first)}{_cider(before)}): the second, training "
            f"on the score, made them no better{_cider(reached)}."
        )
    return (
        f"Captions come from the second of two stages, training on the score (epoch {kept} of {epochs}{_cider(run.meta.get('val_cider'))}), after "
        f"{len(first)} epochs of cross entropy{_cider(before)}."
    )


def _cider(value: float | None) -> str:
    return "" if value is None else f", CIDEr {value:.3f} on val"
