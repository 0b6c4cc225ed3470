"""The choice between plain and fast code: who makes it, and what it holds for."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from refusals import refuses

from xpcap import OptionError, plain
from xpcap.backend import plain_code
from xpcap.backend.plain_code import current_code
from xpcap.backend.replay import recording
from xpcap.backend.threads import cores, parallel_map
from xpcap.ops import HostOps, Ops, get_ops


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment is asked as by a new process."""
    monkeypatch.delenv("XPCAP_PLAIN", raising=False)
    plain_code._from_environment.cache_clear()  # private: nothing public asks again
    yield
    plain_code._from_environment.cache_clear()


@pytest.mark.parametrize(("variable", "chosen"), [("", "fast"), ("0", "fast"), ("1", "plain")])
def test_the_variable_chooses_and_the_context_comes_before_it(
    variable: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XPCAP_PLAIN", variable)
    assert current_code() == chosen
    with plain():
        assert current_code() == "plain"
    assert current_code() == chosen


def test_a_variable_that_chooses_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPCAP_PLAIN", "yes")
    with refuses(OptionError, "XPCAP_PLAIN", "'yes'", "1 for plain code"):
        current_code()


def test_plain_code_is_the_equations_and_spoils_a_recording_until_it_ends() -> None:
    x = np.zeros(4)
    with recording() as record:
        for _ in range(2):  # one inside the other
            assert type(get_ops(x)) is HostOps
            with plain(), plain():
                assert type(get_ops(x)) is Ops
    assert record.invalidated == "plain"


def test_plain_work_stays_in_its_thread_and_another_thread_chooses_for_itself() -> None:
    with plain():
        threads = parallel_map(lambda _: (threading.get_ident(), current_code()), range(3))
        assert threads == [(threading.get_ident(), "plain")] * 3
        assert cores() == 1
        codes: list[str] = []
        thread = threading.Thread(target=lambda: codes.append(current_code()))
        thread.start()
        thread.join()
    assert codes == ["fast"]
