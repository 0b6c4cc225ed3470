"""METEOR (Denkowski & Lavie 2014) and SPICE (Anderson et al. 2016): Java programs that the package pycocoevalcap brings and calls."""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.metrics.metric import Metric, References, Scored, Words, averaged

PACKAGE = "pycocoevalcap"
METEOR = Path("meteor", "meteor-1.5.jar")
MODELS = Path("spice", "lib", "stanford-corenlp-3.6.0.jar")  # which SPICE would download when called
Said = dict[int, list[str]]


class JavaError(RuntimeError):
    """A Java program did not do its work."""


class Meteor:
    """METEOR 1.5. No interval, since its corpus value is no function of sums over pictures that it tells."""

    name = "meteor"
    title = "METEOR"
    plain = "words in common with what people wrote, synonyms and other forms of a word too; 1 at best"
    protocol = "METEOR 1.5 of pycocoevalcap, words as for BLEU"
    known_only = False

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``meteor``. JavaError : the program failed."""
        corpus, pictures = _run(self.title, _meteor, references, hypotheses)
        return Scored({self.name: float(corpus)}, [float(score) for score in pictures])


class Spice:
    """SPICE 1.0."""

    name = "spice"
    title = "SPICE"
    plain = "things, and what is said of them, in common with what people wrote; 1 at best"
    protocol = "SPICE 1.0 of pycocoevalcap, F-measure of all tuples, words as for BLEU, mean over pictures"
    known_only = False

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``spice``. JavaError : the program failed."""
        _, pictures = _run(self.title, _spice, references, hypotheses)
        return averaged(self.name, np.nan_to_num([score["All"]["f"] for score in pictures]))


def java_metrics() -> tuple[list[Metric], dict[str, str]]:
    """Those of the two that can be computed here; and name to reason for those that cannot. Nothing is downloaded."""
    if not _folders():
        return [], dict.fromkeys((Meteor.name, Spice.name), f"{PACKAGE} is not installed")
    if not shutil.which("java"):
        return [], dict.fromkeys((Meteor.name, Spice.name), "there is no java on the PATH")
    if not _file(MODELS):
        return [Meteor()], {Spice.name: f"its language models are not there; python -m {PACKAGE}.spice.get_stanford_models downloads them"}
    return [Meteor(), Spice()], {}


def _folders() -> list[str]:
    found = importlib.util.find_spec(PACKAGE)
    return list(found.submodule_search_locations or ()) if found else []  # it has no __init__.py


def _file(name: Path) -> Path | None:
    """The package's file of that name; None where it is missing."""
    return next((path for folder in _folders() if (path := Path(folder, name)).is_file()), None)


def _run(title: str, compute: Callable[[Said, Said], Any], references: References, hypotheses: Sequence[Words]) -> tuple[Any, Any]:
    """Corpus value, and one value a picture. The programs take text, one space between words."""
    written = {i: [" ".join(caption) for caption in captions] for i, captions in enumerate(references)}
    try:
        corpus, pictures = compute(written, {i: [" ".join(said)] for i, said in enumerate(hypotheses)})
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise JavaError(
            f"{title}'s Java program failed ({str(error)[:200]}); is the memory large enough, and the Java not too new for it?"
        ) from error
    return corpus, pictures


def _meteor(written: Said, said: Said) -> tuple[float, list[float]]:
    """Run METEOR itself: pycocoevalcap's wrapper leaves pipes open, and waits for ever once the program has failed."""
    jar = _file(METEOR)
    if jar is None:
        raise FileNotFoundError(f"{PACKAGE} has no {METEOR}")
    with tempfile.TemporaryFile() as log:
        command = ["java", "-jar", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
        try:
            with subprocess.Popen(command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8") as process:
                try:
                    return _talk(process, written, said)
                finally:
                    process.kill()
        except (OSError, ValueError) as error:  # ValueError: no number, since the program has ended
            log.seek(0)
            reason = " ".join(log.read().decode(errors="replace").split())
            raise subprocess.SubprocessError(reason or str(error)) from error


def _talk(process: subprocess.Popen[str], written: Said, said: Said) -> tuple[float, list[float]]:
    """Corpus value, and one value a picture.

    METEOR answers SCORE, with a picture's references and its caption, by statistics; and EVAL, with the statistics of all pictures, by a line
    with the value of each, then one with that of the corpus.
    """
    assert process.stdin is not None
    assert process.stdout is not None

    def send(*fields: str) -> None:
        print(*fields, sep=" ||| ", file=process.stdin, flush=True)

    statistics = []
    for i, references in written.items():
        send("SCORE", *references, *said[i])
        statistics.append(process.stdout.readline().strip())
    send("EVAL", *statistics)
    *pictures, corpus = (float(process.stdout.readline()) for _ in range(len(statistics) + 1))
    return corpus, pictures


def _spice(written: Said, said: Said) -> Any:
    from pycocoevalcap.spice.spice import Spice as Program

    return Program().compute_score(written, said)
