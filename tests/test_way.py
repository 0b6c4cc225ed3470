"""Which way is computed: by whom it is chosen, and for what."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from refusals import refuses

from xpcap import OptionError, plain, way
from xpcap.device.replay import recording
from xpcap.ops import HostOps, Ops, get_ops
from xpcap.threads import cores, parallel_map
from xpcap.way import current_way


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment is asked as by a new process."""
    monkeypatch.delenv("XPCAP_PLAIN", raising=False)
    way._from_environment.cache_clear()  # private: nothing public asks again
    yield
    way._from_environment.cache_clear()


@pytest.mark.parametrize(("variable", "chosen"), [("", "fast"), ("0", "fast"), ("1", "plain")])
def test_the_variable_chooses_and_the_context_comes_before_it(
    variable: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XPCAP_PLAIN", variable)
    assert current_way() == chosen
    with plain():
        assert current_way() == "plain"
    assert current_way() == chosen


def test_a_variable_that_chooses_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPCAP_PLAIN", "yes")
    with refuses(OptionError, thing="XPCAP_PLAIN", got="'yes'", expected="1 for the plain"):
        current_way()


def test_the_plain_way_is_the_equations_and_spoils_a_recording_until_it_ends() -> None:
    x = np.zeros(4)
    with recording() as record:
        for _ in range(2):  # one inside the other
            assert type(get_ops(x)) is HostOps
            with plain(), plain():
                assert type(get_ops(x)) is Ops
    assert record.invalidated == "plain"


def test_plain_work_stays_in_its_thread_and_another_thread_chooses_for_itself() -> None:
    with plain():
        threads = parallel_map(lambda _: (threading.get_ident(), current_way()), range(3))
        assert threads == [(threading.get_ident(), "plain")] * 3
        assert cores() == 1
        ways: list[str] = []
        thread = threading.Thread(target=lambda: ways.append(current_way()))
        thread.start()
        thread.join()
    assert ways == ["fast"]
