"""The inside of a run's cell as it captions one picture."""

from pathlib import Path

from xpcap.data import tokenize
from xpcap.encoders import scheme_of
from xpcap.errors import OptionError
from xpcap.models import CaptioningRNN
from xpcap.report.look import Inside
from xpcap.runs.pictures import encode_picture
from xpcap.runs.run import Run
from xpcap.work import notice


def look_inside(run: Run, picture: str | Path, *, caption: str | None = None) -> Inside:
    """Trace a picture's caption in a run's model, and in the model before its training.

    A notice names words that the run does not know.

    picture : path, or URL as text
    caption : the words to trace; None: those of the run's default decoding
    DataError : the picture cannot be read, or the run's features come from no encoder of this
        package. OptionError : a caption without words, or longer than the run's.
    """
    vocabulary, most, words = run.vocabulary, run.config.max_words, list[str]()
    if caption is not None:
        words = tokenize(caption)
        if not 1 <= len(words) <= most:
            expected = f"1 to {most}, the most that {run.path} was trained on"
            raise OptionError("look_inside", "the caption", f"has {len(words)} words", expected)
        if unknown := [word for word in words if word not in vocabulary.word_to_idx]:
            notice(
                f"{run.path} does not know {', '.join(unknown)}, and reads"
                f" {vocabulary.idx_to_word[vocabulary.unk]} instead"
            )
    source = picture if scheme_of(picture) else Path(picture)
    encoder = run.encoder("look_inside")
    pixels, feature = encode_picture("look_inside", source, encoder)
    features = run.preprocessing(feature[None])
    decoder = run.decoder()
    if caption is None:
        (one,) = decoder([str(picture)], features)
        words = list(one.words)
    ids = vocabulary.encode_words([words], max(1, len(words)))[:, : len(words) + 2]
    model, seed = run.model, run.config.recipe.seed
    config = model.config
    untrained = CaptioningRNN.from_config(config, model.word_to_idx, dtype=model.dtype, seed=seed)
    facts = [
        ("run", run.name),
        ("cell", config.cell),
        ("hidden", str(config.hidden)),
        ("wordvec", str(config.wordvec)),
        ("vocabulary", f"{config.vocabulary:,} words"),
        ("inject", config.inject),
        ("caption", "given" if caption else decoder.title),
        ("untrained", f"of the same sizes, seed {seed}"),
    ]
    return Inside(
        run.name,
        Path(str(picture)).name,
        pixels,
        ids[0].tolist(),
        caption is not None,
        vocabulary,
        config,
        model.trace(features, ids),
        untrained.trace(features, ids),
        facts,
    )
