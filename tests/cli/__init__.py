"""The `viewfold` command with bad input: one clear sentence, exit code 2, no traceback."""

from collections.abc import Callable

Command = Callable[..., str]  # what conftest's fixtures are: arguments in, what is said out
