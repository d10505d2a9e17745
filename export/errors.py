"""What can go wrong between a run and a bundle for a reason that the user can mend.

ExportError
├── VerificationError    the graphs do not say what torch says; every failure is listed
├── PrecisionError       in lower precision a mode answers worse than is allowed
└── TargetError          the place for the bundle is taken or cannot be written
"""


class ExportError(Exception):
    """The root: the message says what was wrong, what was got and what to do."""


class VerificationError(ExportError):
    """The graphs do not say what torch says; the message lists every failure."""


class PrecisionError(ExportError):
    """In lower precision a mode answers worse than is allowed; the message says which and by how much."""


class TargetError(ExportError):
    """The place for the bundle is taken or cannot be written."""
