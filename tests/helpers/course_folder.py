"""The course's package as a student has it: the names of its modules, with nothing behind them."""

from pathlib import Path

NAMES = {  # of the course, by module, as its notebooks of 2016 to 2024 import them
    "rnn_layers": {
        *("affine_forward", "affine_backward", "word_embedding_forward", "word_embedding_backward"),
        *(f"{name}_{way}" for name in ("rnn", "rnn_step") for way in ("forward", "backward")),
        *(f"{name}_{way}" for name in ("lstm", "lstm_step") for way in ("forward", "backward")),
        *("temporal_affine_forward", "temporal_affine_backward", "temporal_softmax_loss"),
        "sigmoid",
    },
    "layers": {"affine_forward", "affine_backward", "dropout_forward", "dropout_backward"},
    "classifiers.rnn": {"CaptioningRNN"},
    "captioning_solver": {"CaptioningSolver"},
    "coco_utils": {"load_coco_data", "sample_coco_minibatch", "decode_captions"},
    "optim": {"sgd", "sgd_momentum", "rmsprop", "adam"},
    "gradient_check": {
        "eval_numerical_gradient",
        "eval_numerical_gradient_array",
        "grad_check_sparse",
    },
    "image_utils": {"image_from_url"},
}


def own_package(folder: Path, name: str = "cs231n") -> Path:
    """A package as a student has it: its functions are not written yet."""
    package = folder / name
    (package / "classifiers").mkdir(parents=True, exist_ok=True)
    for file in ("__init__", "classifiers/__init__"):
        (package / f"{file}.py").write_text("")
    for module, names in NAMES.items():
        text = "".join(f"def {name}(*args, **options):\n    pass\n\n\n" for name in sorted(names))
        (package / f"{module.replace('.', '/')}.py").write_text(text)
    return package
