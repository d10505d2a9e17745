"""Print the oldest versions that pyproject.toml admits, as a constraints file."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
    if found := re.match(r"([\w.-]+)>=([\w.]+)[^;]*(;.*)?", requirement):
        name, version, marker = found.groups()
        print(f"{name}=={version}{marker or ''}")
