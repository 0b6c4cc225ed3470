"""Source: how a data set came about, as far as programs rely on it, and a record of the rest for people to read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xpcap.errors import DataError

TEXT = ("encoder", "pictures", "generated")
FIELDS = (*TEXT, "seed")


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a data set came about. Stored as one flat JSON object in dataset files and run folders.

    Parameters
    ----------
    encoder : name of the encoder that made the features; a run needs it to caption new pictures
    pictures : path of the folder that holds the pictures; pages look for them there
    generated : kind of generated data
    seed : of generated or drawn data, 0 to 2**63-1
    record : anything else worth knowing, such as file names or settings; must be representable in JSON

    Raises
    ------
    DataError : a field has the wrong type or range, or `record` holds the name of another field.
    """

    encoder: str | None = None
    pictures: str | None = None
    generated: str | None = None
    seed: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if twice := [name for name in FIELDS if name in self.record]:
            raise DataError(f"Source: record holds {twice[0]!r}, expected it as the argument {twice[0]}")
        if fault := _fault(self.to_json()):
            raise DataError(f"Source: {fault}")

    @classmethod
    def from_json(cls, where: str, stored: Mapping[str, Any]) -> "Source":
        """Read the object that `to_json` made.

        Parameters
        ----------
        where : names the file in messages

        Raises
        ------
        DataError : a field has the wrong type or range.
        """
        if fault := _fault(stored):
            raise DataError(f"{where}: source says that {fault}; altered?")
        fields = {name: stored[name] for name in FIELDS if name in stored}
        return cls(**fields, record={key: value for key, value in stored.items() if key not in FIELDS})

    def to_json(self) -> dict[str, Any]:
        """One flat object, keys in alphabetical order, without the fields that are None."""
        fields = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        return dict(sorted({**self.record, **fields}.items()))


def _fault(stored: Mapping[str, Any]) -> str:
    """What is wrong with the fields of a stored source; empty if nothing is."""
    if odd := [name for name in TEXT if not isinstance(stored.get(name, ""), str)]:
        return f"{odd[0]} is {str(stored[odd[0]])[:60]!r}, expected text"
    seed = stored.get("seed")
    if (seed is not None or "generated" in stored) and (type(seed) is not int or not 0 <= seed < 2**63):
        return f"seed is {str(seed)[:60]!r}, expected a whole number, 0 to 2**63-1"
    return ""
