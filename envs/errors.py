"""Errors that a user can fix: one sentence that names the value and what to do.

`ludus` prints them without a traceback and exits with code 2. This module imports nothing, so that
a wrong command is refused at once.
"""


class LudusError(Exception):
    """Base of every error that a user can fix."""


class UsageError(LudusError, ValueError):
    """Raised when a command line cannot be understood."""


class ConfigError(LudusError, ValueError):
    """Raised when a configuration cannot work."""


class EnvError(LudusError, RuntimeError):
    """Raised when an env violates its contract, or is given an option that it does not have.

    Args:
        message: names the env's index, the action and the seed if a single env failed.
        index: index of the first env that failed; None if no single env did.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TrainingError(LudusError, RuntimeError):
    """Raised when a training cannot continue."""


class PeerError(LudusError, RuntimeError):
    """Raised when another process of the same training has ended or does not answer."""


class CheckpointError(LudusError, RuntimeError):
    """Raised when a checkpoint is missing, damaged or of an unknown format."""


class FormatError(CheckpointError):
    """Raised when a checkpoint is whole, but this version of Ludus cannot use its format."""


class RunError(LudusError, RuntimeError):
    """Raised when a run cannot be used."""


def describe_error(error: Exception) -> str:
    """Describe an error in words that follow an env's name, e.g. `raised ValueError: ...`."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's `__str__` may be wrong, too
        text = ""
    if isinstance(error, EnvError):
        return text
    return f"raised {type(error).__name__}" + (f": {text}" if text else " without a message")


class TrainingStopped(Exception):
    """Raised when a signal stopped a training after its last checkpoint. Not an error.

    Args:
        message: names the signal, the progress, and how to resume.
        code: exit status of the process, 128 plus the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
