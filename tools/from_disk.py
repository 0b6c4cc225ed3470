"""Features that need not fit into memory: prepare and train on random data of COCO's size, with the
time and peak memory of each command.

    python tools/from_disk.py FOLDER [prepare's options]

82,783 pictures with 4096 features each, 1.36 GB, and 400,000 captions as COCO's JSON. FOLDER needs
3 GB and is left as it is then.
"""

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PICTURES, D, CAPTIONS, WORDS = 82_783, 4096, 400_000, 9_000
TRAIN = (
    "--epochs",
    "1",
    "--score-epochs",
    "0",
    "--batch-size",
    "512",
    "--hidden",
    "64",
    "--wordvec",
    "64",
)
# VmHWM, because ru_maxrss of a new process begins with the memory of the one that started it
COMMAND = (
    "import sys; from xpcap.cli import main; main(sys.argv[1:], standalone_mode=False); "
    "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
)


def write_features(path: Path, names: Sequence[str], D: int) -> None:
    """What `numpy.savez(path, names=names, features=...)` writes for random features, a block at a
    time.
    """
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("names.npy", "w") as member:
            np.lib.format.write_array(member, np.array(names))
        with archive.open("features.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"shape": (len(names), D), "fortran_order": False, "descr": "<f4"}
            )
            for start in range(0, len(names), 1000):
                member.write(
                    rng.standard_normal((len(names[start : start + 1000]), D), np.float32).tobytes()
                )


def write_captions(path: Path, names: Sequence[str], captions: int, words: int) -> None:
    """COCO's JSON, captions of 8 to 14 words, some words more frequent than others."""
    rng = np.random.default_rng(1)
    ids = (words * rng.random((captions, 14)) ** 3).astype(int)
    lengths = rng.integers(8, 15, captions)
    texts = [
        " ".join(f"w{i}" for i in row[:n])
        for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)
    ]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    annotations = [
        {"id": k, "image_id": k % len(names), "caption": text} for k, text in enumerate(texts)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and peak MB of a command. CalledProcessError : it failed."""
    start = time.perf_counter()
    said = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return time.perf_counter() - start, int(said.split()[-1]) / 1000


def main() -> None:
    folder, options = Path(sys.argv[1]), sys.argv[2:]
    names = [f"COCO_train2014_{number:012}.jpg" for number in range(PICTURES)]
    if not (folder / "captions.json").exists():
        write_features(folder / "features.npz", names, D)
        write_captions(folder / "captions.json", names, CAPTIONS, WORDS)
    for arguments in (
        ("prepare", "captions.json", "--features", "features.npz", "--out", "coco.h5", *options),
        ("train", "coco.h5", "--out", "run", *TRAIN),
    ):
        seconds, most = run(folder, *arguments)
        print(f"{arguments[0]}: {seconds:.0f} s, peak {most:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
