"""JSON files: written whole or not at all; one of a run that cannot be read is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import CheckpointError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
        CheckpointError: it is missing, no JSON, or no object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object; train again")
    return content
