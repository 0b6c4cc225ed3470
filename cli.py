"""Run xpcap without installing it: ``python cli.py train`` is ``xpcap train``."""

import re
import sys
from pathlib import Path

try:
    from xpcap.cli import main
except KeyboardInterrupt:
    print("interrupted; nothing has begun", file=sys.stderr)
    sys.exit(130)
except ModuleNotFoundError as error:
    dependencies = (
        Path(__file__)
        .with_name("pyproject.toml")
        .read_text(encoding="utf-8")
        .split("\ndependencies = [")[1]
        .split("\n]")[0]
    )
    if error.name not in re.findall(r'^ *"([\w-]+)', dependencies, re.MULTILINE):
        raise
    sys.exit(
        f"Error: xpcap needs the package {error.name}, which {sys.executable} does not have.\n"
        "Activate its environment: source .venv/bin/activate, on Windows .venv\\Scripts\\activate; "
        "if there is none, make one: python -m venv .venv, activate it, pip install ."
    )


if __name__ == "__main__":
    main()
