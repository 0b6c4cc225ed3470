"""METEOR (Denkowski & Lavie 2014), SPICE (Anderson et al. 2016): pycocoevalcap's Java programs."""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xpcap.metrics.metric import Metric, References, Scored, Words, averaged

PACKAGE = "pycocoevalcap"
METEOR = Path("meteor", "meteor-1.5.jar")
MODELS = Path("spice", "lib", "stanford-corenlp-3.6.0.jar")  # SPICE would download it when called


class JavaError(RuntimeError):
    """A Java program failed."""

    def __init__(self, title: str, reason: str) -> None:
        super().__init__(
            f"{title}'s Java program failed ({reason[:200]}); is the memory large enough, and the"
            " Java not too new for it?"
        )


class Meteor:
    """METEOR 1.5, without an interval: it does not report sums over pictures.

    Parameters
    ----------
    jar : the program

    Notes
    -----
    The program is called directly: pycocoevalcap's wrapper leaves pipes open, and waits for ever
    once the program has failed.
    """

    name = "meteor"
    title = "METEOR"
    plain = (
        "words in common with what people wrote, synonyms and other forms of a word too; 1 at best"
    )
    protocol = "METEOR 1.5 of pycocoevalcap, words as for BLEU"

    def __init__(self, jar: Path) -> None:
        self._jar = jar

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``meteor``. JavaError : the program failed."""
        with tempfile.TemporaryFile() as log:
            try:
                with subprocess.Popen(
                    ["java", "-jar", "-Xmx2G", self._jar.name, *"- - -stdio -l en -norm".split()],
                    cwd=self._jar.parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                ) as process:
                    try:
                        *pictures, corpus = _ask(process, references, hypotheses)
                    finally:
                        process.kill()
            except (OSError, ValueError) as error:  # ValueError: no answer, or no number
                log.seek(0)
                printed = " ".join(log.read().decode(errors="replace").split())
                raise JavaError(self.title, printed or str(error)) from error
        return Scored({self.name: corpus}, pictures)


class Spice:
    """SPICE 1.0."""

    name = "spice"
    title = "SPICE"
    plain = "things, and what is said of them, in common with what people wrote; 1 at best"
    protocol = (
        "SPICE 1.0 of pycocoevalcap, F-measure of all tuples, words as for BLEU, mean over pictures"
    )

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``spice``. JavaError : the program failed."""
        from pycocoevalcap.spice.spice import Spice as Program

        theirs = {i: [*map(" ".join, captions)] for i, captions in enumerate(references)}
        ours = {i: [" ".join(words)] for i, words in enumerate(hypotheses)}
        try:
            _, pictures = Program().compute_score(theirs, ours)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise JavaError(self.title, str(error)) from error
        return averaged(self.name, np.nan_to_num([score["All"]["f"] for score in pictures]))


def java_metrics() -> tuple[list[Metric], dict[str, str]]:
    """The two metrics as far as they can run here, and name to reason for others; no downloads."""
    jar = _file(METEOR)
    if jar is None or not shutil.which("java"):
        reason = f"{PACKAGE} is not installed" if jar is None else "there is no java on the PATH"
        return [], dict.fromkeys((Meteor.name, Spice.name), reason)
    if _file(MODELS) is None:
        command = f"python -m {PACKAGE}.spice.get_stanford_models"
        reason = f"its language models are not there; {command} downloads them"
        return [Meteor(jar)], {Spice.name: reason}
    return [Meteor(jar), Spice()], {}


def _file(name: Path) -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    folders = found.submodule_search_locations if found else None  # the package has no __init__.py
    return next((path for folder in folders or () if (path := Path(folder, name)).is_file()), None)


def _ask(
    process: subprocess.Popen[str], references: References, hypotheses: Sequence[Words]
) -> list[float]:
    """METEOR's value of each picture, then that of the corpus.

    METEOR answers SCORE, with a picture's references and its caption, by statistics; and EVAL, with
    the statistics of all pictures, by one value a line.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def send(*fields: str) -> None:
        print(*fields, sep=" ||| ", file=stdin, flush=True)

    def answer() -> str:
        if line := stdout.readline().strip():
            return line
        raise ValueError("it ended before it had answered")

    statistics = []
    for captions, words in zip(references, hypotheses, strict=True):
        send("SCORE", *map(" ".join, captions), " ".join(words))
        statistics.append(answer())
    send("EVAL", *statistics)
    return [float(answer()) for _ in range(len(statistics) + 1)]
