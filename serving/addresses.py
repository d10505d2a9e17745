"""Which addresses a server knows: some as they stand, some with names in them.

BentoML's metrics keep a series for each address asked for, so an address that holds a name is passed on as its
template, `/v2/models/{model}/infer`, with what the names were beside it; and all unknown ones as one.
"""

import re
from collections.abc import Iterable

UNKNOWN = "/unknown"
PROTOCOL = "/v2"  # the Open Inference Protocol's, whose clients read errors in a shape of their own


class Addresses:
    """The addresses of a server. A name in braces stands for any text without a slash."""

    def __init__(self, templates: Iterable[str]) -> None:
        known = frozenset(templates)
        self._exact = frozenset(path for path in known if "{" not in path)
        self._patterns = [(path, _pattern(path)) for path in sorted(known - self._exact)]

    def find(self, path: str) -> tuple[str, dict[str, str]]:
        """The template that an address fits, or UNKNOWN, and the names in it. A slash at the end does not count."""
        path = path.rstrip("/") or "/"
        if path in self._exact:
            return path, {}
        for template, pattern in self._patterns:
            if found := pattern.fullmatch(path):
                return template, found.groupdict()
        return UNKNOWN, {}


def is_protocol(path: str) -> bool:
    """Whether who asks there is a client of the Open Inference Protocol."""
    return path == PROTOCOL or path.startswith(f"{PROTOCOL}/")


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)  # text, name, text, name, ...
    names = [f"(?P<{name}>[^/]+)" for name in parts[1::2]]
    texts = [re.escape(text) for text in parts[::2]]
    return re.compile("".join(a + b for a, b in zip(texts, [*names, ""], strict=True)))
