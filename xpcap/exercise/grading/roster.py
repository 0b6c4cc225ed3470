"""A class: each student's submission graded in a process of its own, and one table of all.

Whatever happens to one grading, the others go on.
"""

import csv
import faulthandler
import functools
import json
import multiprocessing
import os
import re
import secrets
import shutil
import sys
import tempfile
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from xpcap.errors import DataError, OptionError
from xpcap.exercise.grading.confine import confinement, fill_page_cache
from xpcap.exercise.grading.grade import PASSES, Grading
from xpcap.exercise.grading.report import Report, zero_report
from xpcap.exercise.grading.results import (
    read_json,
    refused,
    report_page,
    write_class,
    write_json,
)
from xpcap.files import atomic, read_text, require_new_file, write_text

TABLE, BEGUN = "class.csv", "class.json"
# Canvas: all students' files in one folder; Moodle: a folder for each, or the same
UPLOADED = re.compile(r"(.+?)(?:_LATE)?_(\d+)_(?:assignsubmission_.*|\d+_.+)")
STUDENT = ("student", "name", "full name")  # heads of a roster's column
NOBODY = ("points possible", "student, test")  # in that column of Canvas's gradebook
MOST_ROSTER = 10**6  # bytes
MOST_NAME = 50  # characters of a file's name: systems take 255 bytes
FORBIDDEN = '<>:"/\\|?*'  # in a file's name, on some system
RESERVED = r"^(?=-|(?i:con|prn|aux|nul|com\d|lpt\d)(\.|$))"  # as one, by a shell and by Windows
# a process that is forked of one that has imported all; Windows has none
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 60  # calls that take all their seconds, before a grading is ended
Work = TypeVar("Work")


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
    seed: int | None = None,
    jobs: int | None = None,
    names: Sequence[str] = (),
    on_graded: Callable[[Graded], object] = lambda graded: None,
    **options: Any,
) -> list[Graded]:
    """The outcomes of all entries of a folder, by name, and a folder of reports.

    A pass begins when the one before has ended for every student, and no two students' code runs at
    the same time. NAME.html and NAME.json are there after the first pass, with what is pending, and
    complete after the last; class.csv of all is written at the end. A folder with class.json and
    without class.csv is of a grading that was interrupted: a call with the same options goes on,
    and leaves what is complete and of the same files as it is.

    expect : modules that the mark is of
    seed : as of `grade`; class.json keeps it
    jobs : students at a time; None: as many as there are cores
    names : of a roster; who is on it and handed in nothing gets zero
    on_graded : called with each outcome when it is there
    options : of `Grading`
    DataError : `folder` is none or has no entries, or `out` is of another grading or cannot be made.
        OptionError : as of `grade`.
    """
    options["confined"] = confinement(require=options.pop("require_confinement", False))
    brought = students(folder)
    present = [student for student, _ in brought]
    files = [out / file for file in file_names(present)]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    jobs = jobs or cores
    limit = jobs * PATIENCE * options.get("seconds", 10.0)  # one may wait for the turn of others
    waiting: dict[int, Grading] = {}  # by the number of a student
    done: list[Graded] = []

    def take(number: int, work: Callable[[], Grading | Report]) -> Graded | None:
        """The outcome of a pass; None if another is to come."""
        try:
            found, failure = apart(work, limit), ""
        except OptionError:
            raise  # of no student
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            reason = f"The grader failed, which is not a fault of this submission: {said}"
            found = zero_report(expect, reason, "fault of the grader")
            failure = "".join(traceback.format_exception(error))
        report = found if isinstance(found, Report) else found.report()
        with atomic(Path(f"{files[number]}.html")) as page:
            page.write(report_page(present[number], report))
        write_json(Path(f"{files[number]}.json"), present[number], report)
        if isinstance(found, Grading) and report.pending:
            waiting[number] = found
            return None
        return Graded(present[number], report, failure)

    with tempfile.TemporaryDirectory(prefix="xpcap-") as place:
        options |= _begun(out, {"expect": list(expect), "seed": seed})
        fill_page_cache()
        options["turn"] = Path(place, "turn")
        works: dict[int, Callable[[], Grading | Report]] = {
            number: functools.partial(_own, paths, Path(f"{files[number]}.json"), options)
            for number, (_, paths) in enumerate(brought)
        }
        try:
            for later in (*PASSES[1:], "none"):
                for graded in filter(None, _in_threads(jobs, take, works)):
                    done.append(graded)
                    on_graded(graded)
                works = {
                    number: functools.partial(grading.take, later)
                    for number, grading in waiting.items()
                }
                waiting.clear()
        except BaseException:
            if [file.name for file in out.iterdir()] == [BEGUN]:  # nothing was graded
                shutil.rmtree(out)
            raise
    for name in not_on(present, names):
        nothing = zero_report(expect, "Nothing was handed in.", "nothing handed in")
        done.append(Graded(name, nothing))
        on_graded(done[-1])
    done.sort(key=lambda graded: (_key(graded.student), graded.student))
    others = doubles(brought)
    rows = [(name, _with_others(report, others.get(name, ()))) for name, report, _ in done]
    write_class(out / TABLE, rows)
    return done


def _with_others(report: Report, names: Iterable[str]) -> Report:
    """A report with a note for the teacher: who is probably the same student."""
    notes = [f"{name} is probably the same student" for name in names]
    return replace(report, notes=[*report.notes, *notes])


def _begun(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a grading that begins in a new folder, or goes on in one that has them.

    DataError : the folder is of another grading.
    """
    file = out / BEGUN
    if not file.is_file() or (out / TABLE).exists():
        require_new_file("verify", out)
        out.mkdir()
        seed = secrets.randbits(32) if settings["seed"] is None else settings["seed"]
        begun = {**settings, "seed": seed}
        write_text(file, json.dumps(begun) + "\n")
        return begun
    try:
        begun = dict(json.loads(read_text(file, MOST_ROSTER)))
    except (ValueError, TypeError) as error:
        raise DataError("verify", file, f"cannot be read: {error}") from error
    for name, value in settings.items():
        if name not in begun or value not in (None, begun[name]):
            got = f"is of a grading with `{name}` {begun.get(name)}, not {value}"
            raise DataError("verify", file, got, expected="the same options, or a new folder")
    return {name: begun[name] for name in settings}


def _in_threads(
    jobs: int,
    take: Callable[[int, Callable[[], Grading | Report]], Graded | None],
    works: Mapping[int, Callable[[], Grading | Report]],
) -> Iterator[Graded | None]:
    """What `take` gives of each work, so many at a time."""
    with ThreadPoolExecutor(jobs) as threads:
        running = [threads.submit(take, number, work) for number, work in works.items()]
        try:
            for future in as_completed(running):
                yield future.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def students(folder: Path) -> list[tuple[str, list[Path]]]:
    """The students of a folder, by the names that its entries, or Canvas and Moodle, give them.

    Each with a folder or a file, or with all of the student's files of a folder of everybody's.
    DataError : it is no folder, cannot be listed, or has no entries.
    """
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError("verify", folder, f"cannot be listed: {error.strerror}") from error
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
        got = "has no entries" if folder.is_dir() else "is not a folder"
        raise DataError("verify", folder, got, expected="a folder with an entry a student")
    times = Counter(name for name, _ in found)
    return [
        (f"{name} {number}" if times[name] > 1 and number else name, paths)
        for (name, number), paths in found.items()
    ]


def doubles(brought: Iterable[tuple[str, Sequence[Path]]]) -> dict[str, list[str]]:
    """Of what `students` gives, those who are probably one: the other names of each.

    Such as bob.py beside the folder Bob, é in one sign and in two, or "Doe, Jane" beside doejane.
    """
    spelt: dict[str, list[str]] = {}
    for student, paths in brought:
        is_file = student == paths[0].name and paths[0].is_file()
        spelt.setdefault(_key(paths[0].stem if is_file else student), []).append(student)
    return {
        name: [other for other in names if other != name]
        for names in spelt.values()
        for name in names
        if len(names) > 1
    }


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
    names = [line.strip().strip('"').strip() for line in lines]
    if names := [name for name in names if name and name.casefold() not in NOBODY]:
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


def apart(work: Callable[[], Work], seconds: float) -> Work:
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


def _own(paths: Sequence[Path], file: Path, options: Mapping[str, Any]) -> Grading | Report:
    """A grading after its first pass, or a report that is complete: that of `file`, if it is of the
    same submission.
    """
    with tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True) as together:
        try:
            for path in paths if len(paths) > 1 else ():
                if path.is_dir():
                    shutil.copytree(path, together, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copyfile(path, Path(together, path.name), follow_symlinks=False)
            grading = Grading(Path(together) if len(paths) > 1 else paths[0], **options)
        except DataError as error:
            return refused(options["expect"], error)
        except OSError as error:
            got = f"cannot be read: {error.strerror or error}"
            return refused(options["expect"], DataError("grade", paths[0], got))
    begun = grading.report()
    if file.exists() and (before := read_json(file, begun)) is not None:
        return before
    return grading.take(PASSES[0])
