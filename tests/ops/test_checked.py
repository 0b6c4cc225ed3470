"""Whoever changes a kernel, or how it is launched, meets what checks it for minutes."""

from pathlib import Path

import check_kernels
import pytest


def test_kernels_are_as_they_were_when_they_were_checked() -> None:
    now, before = check_kernels.digests(), check_kernels.checked()
    changed = [name for name in now.keys() | before.keys() if now.get(name) != before.get(name)]
    file = check_kernels.CHECKED.relative_to(check_kernels.ROOT)
    assert not changed, (
        f"{', '.join(sorted(changed))}: not compiled by NVRTC or run under sanitizers as they are"
        f" now; run `make kernels-check` on Linux, and commit {file}"
    )


@pytest.mark.parametrize(
    ("statement", "is_written"),
    [
        ("pytest.skip('NVRTC 13.5 does not know sm_70')", True),
        ("pytest.skip('g++ is not on the PATH')", False),
        ("raise AssertionError", False),
    ],
)
def test_kernels_are_checked_where_all_tests_ran_and_passed(
    statement: str, is_written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, found = tmp_path / f"{tmp_path.name}.py", tmp_path / "checked.sha256"
    program.write_text(f"import pytest\ndef test_it():\n    {statement}\n")
    monkeypatch.setattr(check_kernels, "TESTS", [program])
    monkeypatch.setattr(check_kernels, "CHECKED", found)
    status = check_kernels.main(["-p", "no:cacheprovider", f"--rootdir={tmp_path}"])
    assert (status == 0) is found.exists() is is_written
    assert not is_written or check_kernels.checked() == check_kernels.digests()
