"""Reranking by similar photos in runs: fitted when training ends, whoever trains and however often it
stops, read by every command, and passed on to a warm start.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kill
import numpy as np
import pytest
from commands import good
from emulated import Emulator
from libraries import BLAS
from ranks import together
from refusals import refuses
from trainings import RATE, data_set

from xpcap import open_run, use_backend
from xpcap.captioning.captions import caption_run
from xpcap.captioning.scores import evaluate_run
from xpcap.distributed import Group
from xpcap.distributed.work import work
from xpcap.errors import OptionError
from xpcap.files.safetensors_file import read_tensors, write_tensors
from xpcap.models import Policy
from xpcap.runs.decoder import RerankedBeam
from xpcap.runs.folder import BEST, RERANKING, START_RERANKING
from xpcap.runs.recipe import PRESETS, Recipe
from xpcap.runs.run import Run
from xpcap.trainer import reranking
from xpcap.trainer.reranking import fit_reranking
from xpcap.trainer.train import train_run

SIZES: dict[str, Any] = {
    **{"hidden": 12, "wordvec": 6, "epochs": 3, "batch_size": 4, "lr": 0.02},
    **{"dropout": 0.2, "score_epochs": 0},
}
SCORE = {"score_epochs": 2, "samples": 2}


@pytest.fixture(scope="module", autouse=True)
def fast_second_stage() -> Iterator[None]:
    """It improves on the first within two epochs of thirty steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS["score"], "lr", RATE)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset file, and runs on it: `reranked` and `greedy` of one stage, `staged` of two."""
    folder = tmp_path_factory.mktemp("made")
    data = data_set(folder / "data.h5")
    for name, stages in (("reranked", {}), ("greedy", {}), ("staged", SCORE)):
        options = Recipe(data, **SIZES | stages)
        train_run(replace(options, out=folder / name / "run", neighbours=name != "greedy"))
    return folder


def captions(run: Run, policy: Policy | None = None, **more: Any) -> list[str]:
    return [one.caption for one in caption_run(run, count=20, policy=policy, **more)]


def features_of(run: Run) -> np.ndarray:
    return run.data().features("val", np.arange(20))


def test_neighbours_change_the_captions_and_not_a_bit_of_what_is_trained(made: Path) -> None:
    reranked, greedy = made / "reranked" / "run", made / "greedy" / "run"
    for name in (BEST, "last.safetensors", "history.jsonl"):
        assert (reranked / name).read_bytes() == (greedy / name).read_bytes()
    assert RERANKING not in kill.files(greedy)
    run, plain = open_run(reranked), open_run(greedy)
    words = run.vocabulary.idx_to_word
    rerankings = run.decoder(RerankedBeam(10, no_stutter=True)).rerank(features_of(run))
    expected = [" ".join(words[i] for i in one.best) for one in rerankings]
    assert captions(run) == expected == [*evaluate_run(run).to_json()["captions"].values()]
    assert captions(run, Policy()) == captions(plain) != expected
    retrieved = [one.candidates[0].candidate.photo for one in rerankings]
    assert max(retrieved) >= 0  # few photos: captions of neighbours are candidates


def test_a_beam_is_called_ranked_where_it_is_and_takes_no_other_penalty(made: Path) -> None:
    reranked, plain = (open_run(made / name / "run") for name in ("reranked", "greedy"))
    penalised = RerankedBeam(4, length_penalty=0)
    assert plain.decoder(penalised).title == "beam of 4, length penalty 0"
    assert reranked.decoder(RerankedBeam(4)).title == "beam of 4, reranked by similar photos"
    with refuses(OptionError, "`length_penalty`", "is 0 in a RerankedBeam"):
        reranked.decoder(penalised)


@pytest.mark.parametrize("no_stutter", [False, True])
def test_captions_of_neighbours_keep_to_the_policy(no_stutter: bool, made: Path) -> None:
    run = open_run(made / "reranked" / "run")
    assert run.reranker is not None
    index = run.reranker.index
    ids = index.photos.captions
    ids = np.where(run.vocabulary.is_word(ids), ids[0, 1], ids)
    stuttering = replace(index, photos=replace(index.photos, captions=ids))
    run = replace(run, reranker=replace(run.reranker, index=stuttering))
    rerankings = run.decoder(RerankedBeam(10, no_stutter=no_stutter)).rerank(features_of(run))
    photos = [one.candidate.photo for reranking in rerankings for one in reranking.candidates]
    assert (max(photos) >= 0) == (not no_stutter)


def test_a_run_ranks_no_more_and_again_as_it_is_resumed(made: Path, tmp_path: Path) -> None:
    whole = made / "staged" / "run"
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    given = {"out": folder, "data": made / "data.h5", "resume": True}
    assert train_run(Recipe(**given, neighbours=False)).run.reranker is None
    for _ in range(2):
        assert not (folder / RERANKING).exists()
        assert open_run(folder).config.recipe.neighbours is False
        good("train", "--out", folder, "--resume")
    good("train", "--out", folder, "--resume", "--neighbours")
    assert (folder / RERANKING).read_bytes() == (whole / RERANKING).read_bytes()
    assert captions(open_run(folder)) == captions(open_run(whole))
    good("train", "--out", folder, "--resume")
    assert open_run(folder).config.recipe.neighbours is True


@pytest.mark.threads
@pytest.mark.parametrize(("threads", "ranks"), [(1, 1), (2, 3)])
def test_cores_and_ranks_round_the_weights_of_a_ranking_and_change_no_more(
    threads: int, ranks: int, made: Path, tmp_path: Path
) -> None:
    """The index is the same to the bit. Weights follow the log-probabilities of candidates, which
    are decoded in parts of a batch, and so rounded in float32 in another order: by some 1e-7 each.
    """
    folder = Path(shutil.copytree(made / "greedy" / "run", tmp_path / "run"))

    def fit_and_caption(group: Group) -> list[str]:
        with work(group=group):
            fit_reranking(open_run(folder), open_run(folder).data())
            return [*evaluate_run(open_run(folder)).to_json()["captions"].values()]

    with BLAS.limit(limits=threads):
        found = together(ranks, fit_and_caption)
    expected = made / "reranked" / "run"
    assert found == [captions(open_run(expected))] * ranks
    (tensors, meta), (wanted, record) = (
        read_tensors(path / RERANKING) for path in (folder, expected)
    )
    assert {name: x.tobytes() for name, x in tensors.items()} == {
        name: x.tobytes() for name, x in wanted.items()
    }
    assert meta.pop("weights") == pytest.approx(record.pop("weights"), rel=1e-5, abs=1e-5)
    assert meta.pop("fit") == pytest.approx(record.pop("fit"), rel=1e-5)
    assert meta == record


def test_emulated_captions_are_ranked_as_on_numpy(made: Path, device: Emulator) -> None:
    said = {}
    for backend in ("numpy", "cupy"):
        with use_backend(backend):
            said[backend] = captions(open_run(made / "staged" / "run"))
    assert said["cupy"] == said["numpy"]


# Two stages


def test_candidates_of_a_run_of_two_stages_are_of_its_one_model(made: Path) -> None:
    run = open_run(made / "staged" / "run")
    assert run.meta["epoch"] > 0  # the second stage has improved the first
    (reranking,) = run.decoder().rerank(features_of(run)[:1])
    own = [one.candidate for one in reranking.candidates if one.candidate.photo < 0]
    whole = [one for one in own if len(one.words) < run.config.max_words]  # the others lack END
    assert whole
    for candidate in whole:
        encoded = np.array([[run.vocabulary.start, *candidate.words, run.vocabulary.end]], np.int32)
        log_p = run.model.word_log_probabilities(features_of(run)[:1], encoded).sum()
        np.testing.assert_allclose(candidate.log_probability, log_p, rtol=1e-4)


def test_a_fit_that_is_killed_leaves_a_run_that_opens_with_a_notice_and_resumes_as_ever(
    made: Path, tmp_path: Path
) -> None:
    whole = made / "staged" / "run"
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    tensors, meta = read_tensors(folder / RERANKING)
    write_tensors(folder / RERANKING, tensors, {**meta, "best": "that of fewer epochs"})
    before = (folder / RERANKING).read_bytes()

    def kill_fit(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reranking, "write_reranker", kill_fit)
        with pytest.raises(KeyboardInterrupt):
            fit_reranking(open_run(folder), open_run(folder).data())
    assert (folder / RERANKING).read_bytes() == before
    notices: list[str] = []
    with work(on_notice=notices.append):
        assert captions(open_run(folder))
        good("train", "--out", folder, "--resume")
        open_run(folder)
    assert [
        text.startswith(f"the reranker of {folder} was fitted to other") for text in notices
    ] == [True]
    assert (folder / RERANKING).read_bytes() == (whole / RERANKING).read_bytes()


# A warm start


def test_a_warm_start_ranks_with_the_photos_of_both_without_the_run_that_it_began_from(
    made: Path, tmp_path: Path
) -> None:
    base = open_run(shutil.copytree(made / "staged" / "run", tmp_path / "base"))
    own = data_set(tmp_path / "own.h5", seed=1, things=("dog", "bird", "boat"))
    given = {"start": base.path, "out": tmp_path / "on", "epochs": 2, "batch_size": 10}
    run, _ = train_run(Recipe(own, **given))
    assert run.reranker is not None
    assert base.reranker is not None
    of_base, of_own = (
        [f"{origin}train{seed}-{i}.jpg" for i in range(60)]
        for seed, origin in enumerate(("base: ", ""))
    )
    assert list(run.reranker.index.photos.images) == [*of_base, *of_own]
    before = base.reranker.index
    np.testing.assert_array_equal(run.reranker.index.embeddings[:60], before.embeddings)
    texts = {
        name: [" ".join(run.vocabulary.idx_to_word[i] for i in c) for c in index.captions(7)]
        for name, index in (("both", run.reranker.index), ("base", before))
    }
    assert texts["both"] == texts["base"]
    said = captions(run)
    shutil.rmtree(base.path)
    assert captions(open_run(tmp_path / "on")) == said
    (tmp_path / "on" / START_RERANKING).unlink()
    assert captions(open_run(tmp_path / "on")) == said
