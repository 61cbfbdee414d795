"""Format versions of run folders, checkpoints and data sets.

Files of ludus 0.1.0 carry no version and count as version 1. Each later file stores its version as
`format` and the version of Ludus that wrote it as `ludus`.
"""

from typing import Any

from ludus.training.provenance import ludus_version

FORMAT = 2  # written
READABLE = (1, 2)


def format_stamp() -> dict[str, Any]:
    """Return the two entries that identify the format of a new file."""
    return {"format": FORMAT, "ludus": ludus_version()}


def format_of(record: dict[str, Any]) -> int:
    """Return the format version of a record that was read from a file; 0 if it is no number."""
    version = record.get("format", 1)
    return version if type(version) is int else 0


def check_format(record: dict[str, Any], what: str, error: type[Exception]) -> None:
    """Refuse a record whose format this version of Ludus cannot read.

    Args:
        record: what was read from a file.
        what: the file, for the message.
        error: raised with one sentence that names the version of Ludus that reads the file.
    """
    if not isinstance(record, dict):
        raise error(f"{what} holds no object")
    version = format_of(record)
    if version in READABLE:
        return
    readable = " and ".join(str(number) for number in READABLE)
    writer = record.get("ludus", "an unknown version")
    raise error(
        f"{what} has format {version}; this ludus {ludus_version()} reads {readable}; it was "
        f"written by ludus {writer}, which reads it"
    )
