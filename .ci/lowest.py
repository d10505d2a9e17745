"""Print the oldest versions that pyproject.toml admits, as a constraints file."""

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
lists = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in chain.from_iterable(lists):
    if found := re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)[^;]*(;.*)?", requirement):
        name, version, marker = found.groups()
        print(f"{name}=={version}{marker or ''}")
