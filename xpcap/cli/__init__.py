"""The command line; each command has a file. Open score.py first, the shortest.

group.py handles errors, exit statuses and ranks for all commands.
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
