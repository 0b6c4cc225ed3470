"""A class: each student's submission graded in a process of its own, and one table of all.

Whatever happens to one grading, the others go on.
"""

import contextlib
import csv
import faulthandler
import functools
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.errors import DataError, OptionError
from xpcap.exercise.grading.confine import confinement
from xpcap.exercise.grading.grade import grade_submission
from xpcap.exercise.grading.report import Report, zero_report
from xpcap.exercise.grading.results import refused, write_class, write_json, write_report
from xpcap.files import read_text, require_new_file

TABLE = "class.csv"
# Canvas: all students' files in one folder; Moodle: a folder for each, or the same
UPLOADED = re.compile(r"(.+?)(?:_LATE)?_(\d+)_(?:assignsubmission_.*|\d+_.+)")
STUDENT = ("student", "name", "full name")  # heads of a roster's column
MOST_ROSTER = 10**6  # bytes
MOST_NAME = 50  # characters of a file's name: systems take 255 bytes
FORBIDDEN = '<>:"/\\|?*'  # in a file's name, on some system
RESERVED = r"^(?=-|(?i:con|prn|aux|nul|com\d|lpt\d)(\.|$))"  # as one, by a shell and by Windows
# a process that is forked of one that has imported all; Windows has none
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 60  # calls that take all their seconds, before a grading is ended


class Graded(NamedTuple):
    """The outcome of a student.

    student : as the folder has the name, without what Canvas and Moodle add
    failure : a traceback of the grader, whose fault is not the student's; "" for none
    """

    student: str
    report: Report
    failure: str = ""


def grade_class(
    folder: Path,
    out: Path,
    *,
    expect: Sequence[str],
    jobs: int | None = None,
    names: Sequence[str] = (),
    on_graded: Callable[[Graded], object] = lambda graded: None,
    **options: Any,
) -> list[Graded]:
    """The outcomes of all entries of a folder, by name, and a new folder of reports.

    NAME.html and NAME.json of a student are written at once, class.csv of all at the end: a folder
    without it is of a grading that was interrupted.

    expect : modules that the mark is of
    jobs : students at a time; None: as many as there are cores
    names : of a roster; who is on it and handed in nothing gets zero
    on_graded : called with each outcome when it is there
    options : of `grade_submission`
    DataError : `folder` is none or has no entries, or `out` exists or cannot be made. OptionError :
        as of `grade_submission`.
    """
    options["confined"] = confinement(require=options.get("require_confinement", False))
    brought = students(folder)
    present = [student for student, _ in brought]
    require_new_file("verify", out)
    out.mkdir()
    done: list[Graded] = []

    def one(student: str, paths: Sequence[Path], file: Path) -> Graded:
        work = functools.partial(_grade, student, paths, file, expect=expect, **options)
        try:
            return Graded(student, apart(work, PATIENCE * options.get("seconds", 10.0)))
        except OptionError:
            raise  # of no student
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            reason = f"The grader failed, which is no mistake of this submission: {said}"
            report = zero_report(expect, reason, "fault of the grader")
            _write(student, file, report)
            return Graded(student, report, "".join(traceback.format_exception(error)))

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    with ThreadPoolExecutor(jobs or cores) as threads:
        running = [
            threads.submit(one, student, paths, out / file)
            for (student, paths), file in zip(brought, file_names(present), strict=True)
        ]
        try:
            for future in as_completed(running):
                done.append(future.result())
                on_graded(done[-1])
        except BaseException:
            threads.shutdown(cancel_futures=True)
            with contextlib.suppress(OSError):
                out.rmdir()  # where nothing was graded
            raise
    for name in not_on(present, names):
        nothing = zero_report(expect, "Nothing was handed in.", "nothing handed in")
        done.append(Graded(name, nothing))
        on_graded(done[-1])
    done.sort(key=lambda one: (_key(one.student), one.student))
    write_class(out / TABLE, ((one.student, one.report) for one in done))
    return done


def students(folder: Path) -> list[tuple[str, list[Path]]]:
    """The students of a folder, by the names that its entries, or Canvas and Moodle, give them.

    Each with a folder or a file, or with all of the student's files of a folder of everybody's.
    DataError : it is no folder, or has no entries.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else ()
    found: dict[tuple[str, str], list[Path]] = {}
    for entry in entries:
        if entry.name[0] == "." or entry.name == "__MACOSX":
            continue
        if upload := UPLOADED.fullmatch(entry.name):
            key = upload[1], upload[2]
        else:
            key = (entry.name if entry.is_dir() else entry.stem), ""
            key = key if key not in found else (entry.name, "")
        found.setdefault(key, []).append(entry)
    if not found:
        came = "has no entries" if folder.is_dir() else "is no folder"
        raise DataError("verify", folder, came, expected="a folder with an entry a student")
    times = Counter(name for name, _ in found)
    return [
        (f"{name} {number}" if times[name] > 1 and number else name, paths)
        for (name, number), paths in found.items()
    ]


def read_roster(path: Path) -> list[str]:
    """The names of a roster: a column `student`, `name` or `full name` of CSV, else its lines.

    DataError : it cannot be read, or there is no name in it.
    """
    try:
        lines = read_text(path, MOST_ROSTER).removeprefix("\ufeff").splitlines()
        # a German Excel separates by semicolons
        rows = list(csv.reader(lines, delimiter=max(",;\t", key="".join(lines[:1]).count)))
    except (ValueError, OSError, csv.Error) as error:
        hint = "save it as CSV UTF-8"
        raise DataError("verify", path, f"cannot be read: {error}", cause=hint) from error
    heads = [cell.strip().casefold() for cell in rows[0]] if rows else []
    if columns := [heads.index(head) for head in STUDENT if head in heads]:
        lines = [row[columns[0]] for row in rows[1:] if len(row) > columns[0]]
    if names := [name for line in lines if (name := line.strip().strip('"'))]:
        return names
    raise DataError("verify", path, "has no names", expected="one a line, or CSV with a head")


def not_on(known: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of some names that are not among the known ones, however these are spelt."""
    keys = set(map(_key, known))
    return [name for name in names if _key(name) not in keys]


def _key(name: str) -> str:
    """A name without case and signs: of "Doe, Jane" Canvas makes doejane."""
    name = unicodedata.normalize("NFC", name)
    return re.sub(r"[\W_]", "", name).casefold() or name


def file_names(names: Iterable[str]) -> list[str]:
    """Names of files for students, distinct on systems that do not tell case apart too."""
    files: dict[str, str] = {}
    for name in names:
        signs = [one if one.isprintable() and one not in FORBIDDEN else "_" for one in name]
        file = plain = re.sub(RESERVED, "_", "".join(signs[:MOST_NAME]).rstrip(". ") or "_")
        number = 1
        while (folded := unicodedata.normalize("NFC", file).casefold()) in files:
            number += 1
            file = f"{plain}-{number}"
        files[folded] = file
    return list(files.values())


def apart(work: Callable[[], Report], seconds: float) -> Report:
    """The result of `work`, which is called in a process of its own and raises what it raises there.

    BrokenProcessPool : the process ended, or took longer than `seconds`, after a traceback.
    """
    here = multiprocessing.get_context(METHOD)
    # each process runs the main module again: what that imports is there already
    ours = [name for name in sys.modules if name.partition(".")[0] == "xpcap"]
    here.set_forkserver_preload([__name__, *ours])
    limit = functools.partial(faulthandler.dump_traceback_later, seconds, exit=True)
    with ProcessPoolExecutor(1, here, limit) as process:
        return process.submit(work).result()


def _grade(student: str, paths: Sequence[Path], file: Path, **options: Any) -> Report:
    """Grade a student and write the page and the JSON."""
    with tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True) as together:
        for path in paths if len(paths) > 1 else ():
            if path.is_dir():
                shutil.copytree(path, together, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, Path(together, path.name), follow_symlinks=False)
        try:
            path = Path(together) if len(paths) > 1 else paths[0]
            report = grade_submission(path, **options)
        except DataError as error:
            report = refused(options["expect"], error)
    _write(student, file, report)
    return report


def _write(student: str, file: Path, report: Report) -> None:
    write_report(Path(f"{file}.html"), student, report)
    write_json(Path(f"{file}.json"), student, report)
