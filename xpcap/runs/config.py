"""config.json of a run: the recipe, the model, the data, and the versions that trained it."""

import json
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend import get_backend
from xpcap.backend.plain_code import CODES, current_code
from xpcap.data import CaptionData
from xpcap.data.dataset import MAX_WORDS, Source
from xpcap.data.vocabulary import TOKENISER
from xpcap.errors import DataError, InvalidValueError, OptionError
from xpcap.files.json_text import check_json, read_json
from xpcap.files.read_write import check_format, write_text
from xpcap.layers import CELLS
from xpcap.models import ModelConfig
from xpcap.options import Names, Text, Whole, check_fields, described, option
from xpcap.runs.folder import A_RUN, CONFIG, DATA, LOCK, best_digest, nothing_yet
from xpcap.runs.recipe import Recipe

FORMAT = 1
MAX_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Config:
    """Content of config.json: everything that determines a run's parameters, and the data's path.

    The file is one flat object. An option that is also a field of the model, such as `hidden`, is
    stored once.
    """

    recipe: Recipe
    model: ModelConfig
    source: Source  # of the data
    max_words: int = option(Whole(1, MAX_WORDS))
    tokeniser: str = option(Names([TOKENISER]))
    data_stamp: str = option(Text())
    python: str = option(Text())
    numpy: str = option(Text())
    backend: str = option(Text())
    code: str = option(Names(CODES))
    start_digest: str | None = option(Text(), None)  # of the parameters of the run `start`

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, recipe: Recipe, model: ModelConfig, data: CaptionData) -> "Config":
        """The config of a new training in this process."""
        return cls(
            recipe=recipe,
            model=model,
            source=data.source,
            max_words=data.max_words,
            tokeniser=TOKENISER,
            data_stamp=data.fingerprint,
            python=platform.python_version(),
            numpy=np.__version__,
            backend=get_backend(),
            code=current_code(),
            start_digest=None if recipe.start is None else best_digest(recipe.start),
        )

    @classmethod
    def read(cls, folder: Path) -> "Config":
        """Read the config of the run in a folder.

        DataError : it is no run folder, or its config is damaged or has a newer format.
        """
        file = folder / CONFIG
        if not file.is_file():
            if (folder / LOCK).is_file():
                raise nothing_yet(folder, CONFIG)
            got = f"has no {CONFIG}" if folder.exists() else "does not exist"
            raise DataError(f"{folder} {got}, expected {A_RUN}")
        stored = read_json(file, MAX_BYTES, A_RUN)
        check_json(file, stored, {})
        check_format(file, stored.get("format"), FORMAT)
        check_json(file, stored, {"source": {}})
        if isinstance(cell := stored.get("cell"), str) and cell not in CELLS:
            raise DataError(
                f"{file}: cell is {cell[:80]!r}, expected one of {', '.join(CELLS)}; first import"
                " the module that adds this cell to CELLS, or use its program"
            )
        try:
            config = cls(
                recipe=Recipe.from_config(stored, folder),
                model=ModelConfig(
                    **{entry.name: stored.get(entry.name) for entry in fields(ModelConfig)}
                ),
                source=Source.from_json(file, stored["source"]),
                **{name: stored.get(name) for name in FACTS},
            )
        except (OptionError, InvalidValueError) as error:
            raise DataError(f"{file}: {error}; damaged?".replace("`", "")) from error
        if strange := sorted(stored.keys() - config.to_json().keys()):
            raise DataError(
                f"{file} holds {strange[0][:60]!r}, expected the options of this version; made by"
                " another version of xpcap? Train again"
            )
        return config

    def write(self, folder: Path) -> None:
        """Write config.json. OSError : it cannot be written."""
        write_text(folder / CONFIG, json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n")

    def to_json(self) -> dict[str, Any]:
        """A flat object with sorted keys, without facts that are None."""
        facts = {name: getattr(self, name) for name in FACTS}
        known = {name: value for name, value in facts.items() if value is not None}
        parts = {**asdict(self.model), **self.recipe.to_config(), **known}
        return dict(sorted({"format": FORMAT, "source": self.source.to_json(), **parts}.items()))

    @property
    def data(self) -> Path:
        """Path of the data set."""
        return Path(self.recipe.data or Path(self.recipe.out or "") / DATA)


FACTS = tuple(described(Config))
