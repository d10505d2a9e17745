"""What can go wrong between a run and a bundle for a reason that the user can mend.

ExportError
├── VerificationError    the graphs do not say what torch says; every failure is listed
└── TargetError          the place for the bundle is taken or cannot be written
"""


class ExportError(Exception):
    """The root: the message says what was wrong, what was got and what to do."""


class VerificationError(ExportError):
    """The graphs do not say what torch says; the message lists every failure."""


class TargetError(ExportError):
    """The place for the bundle is taken or cannot be written."""
