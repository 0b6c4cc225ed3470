"""The contract of outputs that grow: kept by each that the command has and by somebody's own; and an
output that breaks a claim is named with what is wrong.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from refusals import refuses

from xpcap.errors import ContractError
from xpcap.growing import Row
from xpcap.runs.outputs import SINKS, Growing
from xpcap.runs.records import PictureCaption
from xpcap.testing import OUTPUT, check_output
from xpcap.testing import output as contract


class JsonLines(Growing):
    """A JSON object a line: an output of somebody's own."""

    flag, suffix, start = "--jsonl", ".jsonl", b'{"picture": '
    help = "Write a line of JSON per picture instead of printing."

    def encode(self, caption: PictureCaption) -> bytes:
        row = {
            "picture": caption.image,
            "captions": self.texts(caption),
            "captioner": self.captioner,
        }
        return json.dumps(row).encode() + b"\n"

    def parse(self, row: bytes) -> Row | None:
        content = json.loads(row)
        return Row(content["picture"], content["captioner"])


KINDS = [*(kind for kind in SINKS if issubclass(kind, Growing)), JsonLines]
each_claim = pytest.mark.parametrize("claim", OUTPUT, ids=lambda claim: claim.__name__)


@each_claim
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_output_keeps_the_contract(kind: type[Growing], claim: contract.Claim) -> None:
    check_output(kind, [claim])


# ---- Outputs that break the contract, each one claim at least


def changed(**methods: Any) -> type[Growing]:
    """JSON lines with other methods."""
    return type("Broken", (JsonLines,), methods)


def encoded(change: Callable[[Any, PictureCaption], PictureCaption]) -> type[Growing]:
    """JSON lines of other captions."""
    return changed(encode=lambda self, caption: JsonLines.encode(self, change(self, caption)))


NO_WRITER = changed(parse=lambda self, row: Row(json.loads(row)["picture"]))
BROKEN: dict[str, tuple[type[Growing], str, str]] = {
    "names_kept": (
        encoded(lambda self, caption: caption._replace(image=ascii(caption.image)[1:-1])),
        *("the file", "has rows of ['a.png'"),
    ),
    "captions_kept": (
        changed(texts=lambda self, caption: [caption.caption]),
        *("the row of 3 captions", "lacks ['caption 1', 'caption 2']"),
    ),
    "cut_anywhere": (  # a row has its number in this process
        encoded(lambda self, caption: caption._replace(caption=f"caption {self._rows}")),
        *("bytes that was cut to", "when it is continued"),
    ),
    "line_end_lacking": (NO_WRITER, "lacks its line end", "has ['a.png', 'q\"uo\"te.png'] capt"),
    "captioners_apart": (NO_WRITER, "another captioner", "is continued"),
    "others_refused": (
        changed(parse=lambda self, row: None, start=b""),
        *("the file b'mine' of others", "is continued"),
    ),
    "one_writer": (  # a new file is not locked
        changed(open=lambda self: self.path.unlink(missing_ok=True) or JsonLines.open(self)),
        *("a file in use", "is continued"),
    ),
    "side_by_side": (
        changed(__contains__=lambda self, name: False),
        *("a file beside another", "has ['a.png', 'q\"uo\"te.png', 'x.png'"),
    ),
}


@each_claim
def test_output_that_breaks_a_claim_is_named_with_what_is_wrong(claim: contract.Claim) -> None:
    kind, thing, got = BROKEN[claim.__name__]
    things = ("output Broken", thing)
    with refuses(ContractError, function="check_output", thing=things, got=got):
        check_output(kind, [claim])
    with pytest.raises(ContractError):
        check_output(kind)
