"""The errors that nccleaner raises on purpose.

    NccleanerError                 something the user can act on; exit code 1
    ├── UsageError                 arguments that do not go together; exit code 2
    ├── MissingDependencyError     an optional package is not installed
    ├── InputError                 what the user gave cannot be used
    │   ├── ShardError             a shard is missing, unreadable or damaged
    │   └── TrustedError           the trusted file cannot be used
    ├── RunError                   the run directory does not fit the request
    ├── PrecisionError             no cut-off can promise what was asked for
    └── TrainingError              training cannot go on

Every one says what happened and, in `next_step`, what to do about it.
"""

from __future__ import annotations


class NccleanerError(Exception):
    """Base of all errors that nccleaner raises on purpose.

    Args:
        message: What happened: where, what was expected, what was found. One line.
        next_step: What the user can do about it. One line, may be empty.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".rstrip()

    def __reduce__(self) -> tuple[type[NccleanerError], tuple[str, str]]:
        # Errors cross process boundaries; the default would drop `next_step`.
        return type(self), (self.message, self.next_step)


class UsageError(NccleanerError):
    """Arguments that do not go together."""


class MissingDependencyError(NccleanerError):
    """An optional package is needed and not installed."""


class InputError(NccleanerError):
    """What the user gave cannot be used."""


class ShardError(InputError):
    """A shard is missing, unreadable or damaged."""


class TrustedError(InputError):
    """The trusted file cannot be used."""


class RunError(NccleanerError):
    """The run directory does not fit the request."""


class PrecisionError(NccleanerError):
    """No cut-off can promise the precision that was asked for."""


class TrainingError(NccleanerError):
    """Training cannot go on."""
