"""Print the oldest versions that pyproject.toml admits, as constraints for pip: python .ci/oldest.py > oldest.txt; PIP_CONSTRAINT=oldest.txt make test"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(
    (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
)["project"]
extras = project["optional-dependencies"]
for requirement in (
    *project["dependencies"],
    *extras["dev"],
    *extras["kernels"],
    *extras["images"],
    *extras["serve"],
):
    name, oldest = re.match(r"([\w-]+)[>=]=([\w.]+)", requirement).groups()
    print(f"{name}=={oldest}")
