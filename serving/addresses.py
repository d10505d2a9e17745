"""The addresses that a server knows, those with a name in them as one template each.

Metrics keep a series for each address: by template, and not by what strangers put in a name's place.
"""

import re
from collections.abc import Iterable

PATH_NAMES = "viewfold.names"  # the key in the ASGI scope of what stands for an address's names
Known = tuple[str, dict[str, str]]  # the address or its template, and what stands for its names


class Addresses:
    """Exact addresses, and templates such as /models/{name}/load whose names hold no slash."""

    def __init__(self, exact: Iterable[str], templates: Iterable[str] = ()) -> None:
        self._exact = frozenset(exact)
        self._templates = [(template, _pattern(template)) for template in templates]

    def find(self, path: str) -> Known | None:
        """What an address is known as; None for a stranger."""
        if path in self._exact:
            return path, {}
        for template, pattern in self._templates:
            if found := pattern.fullmatch(path):
                return template, found.groupdict()
        return None


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))
