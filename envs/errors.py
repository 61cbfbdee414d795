"""Errors that a user can mend: one sentence that names the value and what to do.

`ludus` prints them without a traceback and exits with code 2. This module imports nothing, so that
a wrong command is refused at once.
"""


class LudusError(Exception):
    """Base of every error that a user can mend."""


class UsageError(LudusError, ValueError):
    """Raised when a command line cannot be understood."""


class ConfigError(LudusError, ValueError):
    """Raised when a configuration cannot work."""


class EnvError(LudusError, RuntimeError):
    """Raised when an env breaks its contract, or is given what it does not take.

    Args:
        message: names the env's index, the action and the seed where one env is at fault.
        index: of the first env at fault; None where the fault lies with no single env.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TrainingError(LudusError, RuntimeError):
    """Raised when a training cannot go on."""


class CheckpointError(LudusError, RuntimeError):
    """Raised when a checkpoint is missing, damaged or of an unknown format."""


class RunError(LudusError, RuntimeError):
    """Raised when a run cannot be used."""


class TrainingStopped(Exception):
    """Raised when a signal stopped a training after its last checkpoint. Not an error.

    Args:
        message: names the signal, the progress, and how to resume.
        code: exit status of the process, 128 plus the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
