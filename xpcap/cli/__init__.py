"""The command line, one file a command: parse, call, print. Open score.py first, the shortest.

group.py holds what all commands share: errors, exit statuses, and which ranks speak.
"""

from xpcap.cli import caption, evaluate, export, info, look, prepare, score, train, verify
from xpcap.cli.group import main

for command in (
    prepare.prepare,
    train.train,
    evaluate.evaluate,
    score.score,
    caption.caption,
    look.look,
    export.export,
    verify.verify,
    info.info,
):
    main.add_command(command)

__all__ = ["main"]
