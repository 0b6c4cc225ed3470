"""The command line: one file a command, which parses, calls and prints. What a command does stands
in the modules that it calls.
"""

from xpcap.cli import caption, evaluate, info, prepare, score, train, verify
from xpcap.cli.group import main

for command in (
    prepare.prepare,
    train.train,
    evaluate.evaluate,
    score.score,
    caption.caption,
    verify.verify,
    info.info,
):
    main.add_command(command)

__all__ = ["main"]
