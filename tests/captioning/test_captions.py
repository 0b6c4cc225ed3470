"""Captions of new pictures in a program, of any kind and from any thread, and of the pictures of a
split.
"""

import copy
import io
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest
from commands import answer
from emulated import Emulator
from PIL import Image
from refusals import Refusal, refusals, refuses
from runs import config_of

import xpcap
from xpcap import CaptioningRNN, DataError, OptionError, open_captioner, open_run
from xpcap.backend.switch import backend_of
from xpcap.captioning import captions
from xpcap.captioning import captions as of_split
from xpcap.captioning.captions import PictureCaptioner, caption_chosen, caption_run
from xpcap.captioning.outputs import write_captions
from xpcap.data import CaptionData, Source, Split, Vocabulary
from xpcap.data.features import FeatureScaling
from xpcap.drawings import picture_of
from xpcap.models import Beam, Sampling
from xpcap.runs.records import PictureCaption, Skipped
from xpcap.runs.run import Run
from xpcap.trainer.train import Trained

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture
def captioner(reranked: Path) -> PictureCaptioner:
    return open_captioner(reranked)


def photo(number: int) -> np.ndarray:
    return picture_of(f"val{number:05d}.png")


UPLOAD: Any = SimpleNamespace(read=AsyncMock())  # a file as web frameworks give it


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_a_picture_has_the_commands_caption_to_the_bit_in_every_form(
    reranked: Path, captioner: PictureCaptioner, tmp_path: Path
) -> None:
    content, path = png(photo(1)), tmp_path / "one.png"
    path.write_bytes(content)
    (expected,) = answer("caption", reranked, path)
    with path.open("rb") as file, Image.open(path) as lazy:
        for picture in (
            str(path),
            path,
            content,
            bytearray(content),
            memoryview(content),
            file,
            lazy,
            photo(1),
        ):
            one = captioner.caption(picture)
            name = str(path) if isinstance(picture, str | Path) or picture is file else ""
            assert (one.image, one.caption, one.probabilities) == (
                name,
                expected["caption"],
                expected["probabilities"],
            )
    assert expected["probabilities"] != captioner.caption(photo(3)).probabilities


@pytest.mark.threads
def test_eight_threads_get_the_bits_of_one(captioner: PictureCaptioner) -> None:
    contents = [png(photo(number)) for number in range(6)]
    policies = (None, Beam(3, n_best=3), Sampling(seed=1))
    work = [(content, policy) for content in contents for policy in policies]

    def caption(one: tuple[bytes, Beam | Sampling | None]) -> PictureCaption:
        return captioner.caption(one[0], policy=one[1], explain=True)

    alone = list(map(caption, work))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caption, work)) == alone
    assert len(alone[1].n_best) == 3
    assert alone[0].explanation is not None


def test_pictures_are_encoded_on_all_cores(
    captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, encode = threading.Barrier(2), captioner.encoder.encode

    def encode_with_another(pictures: Any) -> np.ndarray:
        both.wait()
        return encode(pictures)

    expected = [*captioner.captions(map(photo, range(4)))]
    monkeypatch.setattr(captions, "cores", lambda: 2)
    monkeypatch.setattr(captioner.encoder, "encode", encode_with_another)
    assert [*captioner.captions(map(photo, range(4)))] == expected


def test_downloads_run_in_the_callers_thread_which_ctrl_c_ends(
    captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloading: list[threading.Thread] = []

    def downloaded(url: str) -> np.ndarray:
        downloading.append(threading.current_thread())
        return photo(int(url[-1]))

    monkeypatch.setattr(captions, "cores", lambda: 2)
    monkeypatch.setattr(captions, "read_url", downloaded)
    sources = [photo(0), "https://example.org/1", photo(2), "https://example.org/3"]
    assert len([*captioner.captions(sources)]) == 4
    assert downloading == 2 * [threading.current_thread()]


@pytest.mark.parametrize("cores", [1, 2])
def test_many_pictures_are_read_batch_by_batch_and_the_bad_ones_keep_their_turn(
    cores: int, captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "BATCH", 3)
    monkeypatch.setattr(captions, "cores", lambda: cores)
    read: list[int] = []
    bad = {1: b"", 2: b"<html>not found</html>", 8: png(photo(8))[:200]}

    def sources() -> Iterator[bytes]:
        for number in range(10):
            read.append(number)
            yield bad.get(number, png(photo(number)))

    results = captioner.captions(sources())
    first = next(results)
    assert read == [0, 1, 2][: 3 // cores * cores]
    found = [first, *results]
    assert [n for n, one in enumerate(found) if isinstance(one, Skipped)] == list(bad)
    reasons = [one.reason for one in found if isinstance(one, Skipped)]
    for reason, words in zip(reasons, ("is empty", "it is an HTML page", "damaged"), strict=True):
        assert words in reason
    for number, one in enumerate(found):
        if isinstance(one, PictureCaption):
            assert one.caption == captioner.caption(photo(number)).caption


def closed(file: Any) -> Any:
    """A file, or a picture, that was closed."""
    file.close()
    return file


def closed_behind() -> Any:
    """A picture whose file was closed behind it."""
    file = io.BytesIO(png(photo(0)))
    image = Image.open(file)
    file.close()
    return image


@refusals(
    r"""
    b"\xff\xd8\xff\xe0 and no more" | DataError | the picture | cannot be read as a picture
    Image.open(io.BytesIO(png(photo(0))[:200])) | DataError | the picture | cannot be read as a picture
    b"%PDF-1.7" | DataError | it is a PDF
    "none.png" | DataError | none.png | does not exist
    photo(0)[..., 0] / 255 | TypeError | (255 * picture).round()
    photo(0).astype("u2") * 257 | TypeError | (picture // 257).astype('uint8')
    photo(0).astype(int) | TypeError | are 0 to 255, give picture.astype('uint8')
    photo(0) > 127 | TypeError | 255 * picture.astype('uint8')
    np.ma.masked_less(photo(0), 9) | TypeError | is a masked array
    photo(0).transpose(2, 0, 1) | ValueError | are its channels the first axis?
    photo(0)[None] | ValueError | picture[0]
    photo(0)[..., :1] | ValueError | picture[..., 0]
    photo(0)[5:5] | ValueError | at least a pixel | an empty crop?
    np.frombuffer(png(photo(0)), np.uint8) | ValueError | picture.tobytes()
    None | TypeError | a path, bytes
    UPLOAD | TypeError | gives no bytes | picture.file
    io.StringIO("text") | TypeError | gives no bytes | 'rb'
    closed(io.BytesIO(png(photo(0)))) | DataError | is closed
    closed(Image.open(io.BytesIO(png(photo(0))))) | DataError | is closed
    closed_behind() | DataError | is closed
    "data:image/png;base64,iVBORw0KGgo=" | DataError | data:image/png;base64 | base64.b64decode(
    "file:///a.png" | DataError | is a URL | without file://
    "s3://a/b.png" | DataError | is a URL | download it
    "iVBORw0KGgo" * 9000 | DataError | cannot be read: File name too long
    """
)
def test_a_bad_picture_is_an_error_that_says_why(
    refusal: Refusal, captioner: PictureCaptioner
) -> None:
    picture = eval(refusal.statement)
    with refuses(refusal.error, *refusal.texts) as caught:
        captioner.caption(picture)
    assert len(str(caught.value)) < 1000
    (skipped,) = captioner.captions([picture])
    assert isinstance(skipped, Skipped)
    assert len(repr(skipped)) < 1000
    assert str(caught.value).endswith(skipped.reason)


def test_one_picture_or_no_policy_is_refused_when_captions_are_asked_for(
    run: Path, captioner: PictureCaptioner
) -> None:
    content = png(photo(0))
    singles: tuple[Any, ...] = (
        *("a.png", Path("a.png"), content, bytearray(content), io.BytesIO(content), photo(0)),
        *(Image.fromarray(photo(0)), UPLOAD, photo(0)[..., 0], None, 5),
    )
    for picture in singles:
        with refuses(TypeError, "captions([picture])", "caption("):
            captioner.captions(picture)
    paths = np.array(["none.png"], object)
    found = [*captioner.captions(paths), *captioner.captions(np.stack([photo(0), photo(1)]))]
    assert [type(one) for one in found] == [Skipped, PictureCaption, PictureCaption]
    features = np.zeros((1, *captioner.run.model.config.feature_shape), np.float32)
    for call in (
        partial(captioner.caption, photo(0)),
        partial(captioner.captions, [photo(0)]),
        partial(xpcap.caption_files, captioner.run, []),
        partial(write_captions, captioner, []),
        partial(caption_run, captioner.run),
        partial(xpcap.evaluate_run, captioner.run),
        partial(captioner.run.model.sample, features),
    ):
        for policy in ("beam", "", 5, {}, Beam):
            with refuses(TypeError, "policy", "a Policy, such as Beam(5)"):
                call(policy=policy)


def test_numbers_are_one_of_each_picture(captioner: PictureCaptioner) -> None:
    policy, three = Sampling(seed=1), [photo(number) for number in range(3)]

    def said(numbers: Any) -> Iterator[str]:
        found = captioner.captions(iter(three), policy=policy, numbers=numbers)
        return (one.caption for one in found if isinstance(one, PictureCaption))

    wanted = [*said([5, 6, 7])]
    assert [*said(count(5))] == wanted
    for numbers, got in (
        ([5, 6], "are fewer than the pictures"),
        (iter([5]), "are fewer than the pictures"),
        (range(5, 9), "are more than the pictures"),
        ([5, 6, -7], "is -7"),
        ([5, 6, 0.5], "is 0.5"),
    ):
        taken: list[str] = []
        with refuses(OptionError, "`numbers`", got):
            taken.extend(said(numbers))
        assert taken == wanted[: len(taken)]


@pytest.mark.parametrize(
    ("encoder", "got"),
    [
        (SimpleNamespace(name="mine", shape=(2101,)), "has features by the encoder 'mine' inste"),
        (SimpleNamespace(name="histogram", shape=(7,)), "has features of size 7 instead of 2101"),
    ],
)
def test_a_captioner_takes_no_other_encoder_than_the_runs(
    encoder: Any, got: str, captioner: PictureCaptioner
) -> None:
    with refuses(DataError, "the encoder", got):
        PictureCaptioner(captioner.run, encoder)
    config = replace(captioner.run.config, source=Source())
    given = replace(captioner.run, config=config)
    if encoder.name == "mine":
        assert PictureCaptioner(given, encoder).encoder is encoder


@refusals(
    """
    captioner.caption(content, attend="no") | `attend` | is 'no'
    captioner.caption(content, explain="no") | `explain` | is 'no'
    write_captions(captioner, [], txt="no") | `txt` | is 'no'
    write_captions(captioner, []) | nothing | `csv`, `txt`
    open_captioner(captioner.run, backend="numpy") | backend | the run's path
    """,
    error=OptionError,
)
def test_options_that_cannot_be_are_named(refusal: Refusal, captioner: PictureCaptioner) -> None:
    refusal.check({**globals(), "captioner": captioner, "content": png(photo(0))})


def test_what_was_read_before_an_exception_of_the_iterable_is_captioned_first(
    captioner: PictureCaptioner,
) -> None:
    def sources() -> Iterator[np.ndarray]:
        yield from (photo(0), photo(1) / 255, photo(2))
        raise DataError("the third is lost")

    taken: list[Any] = []
    with refuses(DataError):
        taken.extend(captioner.captions(sources()))
    assert [type(one) for one in taken] == [PictureCaption, Skipped, PictureCaption]
    alone = captioner.caption(photo(2))
    assert (taken[2].image, taken[2].caption) == (alone.image, alone.caption)
    # of another batch: rounded otherwise in float32, by 6e-8 a product
    assert taken[2].probabilities == pytest.approx(alone.probabilities, rel=1e-5)


def test_copies_and_pickles_caption_alike_in_this_process_and_a_new_one(
    run: Path, reranked: Path
) -> None:
    for path in (reranked, run):
        captioner = open_captioner(path)
        wanted = captioner.caption(photo(2))
        assert copy.deepcopy(captioner).caption(photo(2)) == wanted
        again = pickle.loads(pickle.dumps(captioner))
        assert again is not captioner
        assert pickle.loads(pickle.dumps(captioner)) is again  # a pool sends it with each picture
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(captioner.caption, (photo(2),)) == wanted
    changed = run / "best.safetensors"
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 10**10))
    assert pickle.loads(pickle.dumps(captioner)) is not again


def test_a_captioner_computes_on_its_backend_from_any_thread(
    reranked: Path, captioner: PictureCaptioner, device: Emulator
) -> None:
    device.devices = 2
    wanted = captioner.caption(photo(2))
    for backend in ("cupy", "cupy:1"):
        emulated = open_captioner(reranked, backend=backend)
        assert xpcap.get_backend() == "numpy"
        assert backend_of(emulated.run.model.like) == backend
        with ThreadPoolExecutor(1) as pool:
            one = pool.submit(emulated.caption, photo(2)).result()
        assert one.caption == wanted.caption
        np.testing.assert_allclose(one.probabilities, wanted.probabilities, rtol=1e-4)
        copied = pickle.loads(pickle.dumps(emulated))
        assert backend_of(copied.run.model.like) == backend


def test_what_a_notebook_shows_is_short(reranked: Path, captioner: PictureCaptioner) -> None:
    data = captioner.run.data()
    (one,) = captioner.captions([photo(0)], policy=Beam(5, n_best=5), show=True, explain=True)
    explained = replace(captioner.caption(photo(0), explain=True), attention=[[0.25] * 4] * 9)
    scores = xpcap.evaluate_run(captioner.run)
    for shown in (captioner, captioner.run, data, data.split("val"), one, explained, scores):
        assert len(repr(shown)) < 1000, type(shown)
    assert repr(captioner) == f"PictureCaptioner(Run({str(reranked)!r}), 'histogram')"
    assert "attention=" not in repr(captioner.caption(photo(0)))
    for shown, parts in (
        (captioner.caption(photo(0), show=True), ["<img src=", explained.caption]),
        (scores, ["<table>", "CIDEr"]),
        (Trained(captioner.run, scores), ["<table>", reranked.name]),
        (Trained(captioner.run, None), [reranked.name]),
    ):
        assert all(part in shown._repr_html_() for part in parts)


def test_captions_are_equal_whether_their_picture_is_at_hand_or_not(
    captioner: PictureCaptioner,
) -> None:
    shown = [captioner.caption(photo(0), show=True) for _ in range(2)]
    assert shown[0] == shown[1] == captioner.caption(photo(0))


def test_a_captioner_opens_from_a_run_that_is_open(run: Path) -> None:
    alone = open_captioner(open_run(run)).caption(photo(2))
    assert open_captioner(run).caption(photo(2)) == alone


VOCABULARY = Vocabulary.build(["a dog runs on the grass"], min_count=1)


def data(rng: np.random.Generator) -> CaptionData:
    captions = VOCABULARY.encode(["a dog"] * 25, max_words=6)
    return CaptionData(
        VOCABULARY,
        {
            "val": Split(
                captions,
                np.arange(25),
                rng.standard_normal((25, 4)) * 3,
                [str(i) for i in range(25)],
            )
        },
    )


def model(rng: np.random.Generator) -> CaptioningRNN:
    made = CaptioningRNN(VOCABULARY.word_to_idx, 4, 5, 6, "lstm", np.float64, seed=0)
    for name, value in made.params.items():
        made.params[name] = 2 * rng.standard_normal(value.shape)
    return made


def captions_of(
    captioner: CaptioningRNN, data: CaptionData, numbers: np.ndarray
) -> list[PictureCaption]:
    run = Run(Path("run"), config_of(captioner, 6), VOCABULARY, FeatureScaling(), captioner, {})
    return caption_chosen(run.decoder(), data, "val", numbers)


def test_batches_of_any_size_give_the_same_captions_in_the_order_asked_for(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, captioner = data(rng), model(rng)
    order = rng.permutation(25)
    whole = captions_of(captioner, pictures, order)
    assert len(whole) == 25
    assert len({caption.caption for caption in whole}) > 5
    monkeypatch.setattr(of_split, "SPLIT_BATCH", 7)
    pieces = captions_of(captioner, pictures, order)
    pieces[0:25:24] = [
        captions_of(captioner, pictures, order[place : place + 1])[0] for place in (0, 24)
    ]
    for piece, caption in zip(pieces, whole, strict=True):
        assert piece.words == caption.words
        np.testing.assert_allclose(piece.probabilities, caption.probabilities, rtol=1e-9)


def test_probabilities_are_those_of_the_words_given_the_words_before(
    rng: np.random.Generator,
) -> None:
    """With the chance of END, or of no more where the words run out, they multiply to the
    likelihood of the caption.
    """
    pictures, captioner = data(rng), model(rng)
    captions = captions_of(captioner, pictures, np.arange(25))
    for row, caption in enumerate(captions):
        ids = [VOCABULARY.start, *(VOCABULARY.word_to_idx[word] for word in caption.words)]
        if not caption.words:
            continue
        nll = captioner.score(pictures.features("val", np.array([row])), np.array([ids])).nll
        assert np.prod(caption.probabilities) == pytest.approx(np.exp(-float(nll)), rel=1e-9)
    assert sum(len(caption.words) > 2 for caption in captions) > 5


def test_captions_are_of_max_words_at_most_and_of_real_words_only(rng: np.random.Generator) -> None:
    pictures, captioner = data(rng), model(rng)
    captioner.params["b_vocab"][[VOCABULARY.null, VOCABULARY.start, VOCABULARY.unk]] = (
        100  # what it would love to say
    )
    captioner.params["b_vocab"][VOCABULARY.end] = -100
    captions = captions_of(captioner, pictures, np.arange(25))
    assert {len(caption.words) for caption in captions} == {6}
    assert {word for caption in captions for word in caption.words} <= set(
        VOCABULARY.idx_to_word[4:]
    )
    captioner.params["b_vocab"][VOCABULARY.end] = 100
    silent = captions_of(captioner, pictures, np.arange(2))
    assert [(caption.words, caption.probabilities) for caption in silent] == [([], []), ([], [])]
