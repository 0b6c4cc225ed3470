"""Whatever is damaged is refused, in little memory, in words that say why, and left as it is."""

import sys
from pathlib import Path

import pytest
from programs import program

pytest.importorskip("PIL")

from damage import DAMAGE, READERS, Damage
from refusals import refuses

from xpcap.errors import EXPECTED

ROOT = Path(__file__).parents[2]
MOST_MEMORY = {"picture": 1300}  # MB of a process that meets all of a reader; of others 300

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse there")


@pytest.mark.parametrize("one", DAMAGE, ids=lambda one: f"{one.reader} {one.file}")
def test_damage_is_refused_and_says_why(one: Damage, tmp_path: Path) -> None:
    make, read = READERS[one.reader]
    folder = tmp_path / "it"
    folder.mkdir()
    make(folder)
    one.edit(folder / one.file)
    before = files(folder)
    with refuses(EXPECTED, *one.texts) as caught:
        read(folder)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    assert files(folder) == before


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() if path.is_file() and path.stat().st_size < 16 << 20 else b""
        for path in folder.iterdir()
        if path.name != ".lock"
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells of a peak")
@pytest.mark.parametrize("reader", READERS)
def test_all_damage_together_takes_little_memory(reader: str) -> None:
    code = f"import damage; print(damage.peak({reader!r}))"
    result = program(code, paths=(ROOT / "tests/helpers", ROOT / "tools"))
    assert result.stderr == ""
    assert int(result.stdout) < MOST_MEMORY.get(reader, 300)
