"""Whether an optional package is there."""

from importlib.util import find_spec


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it.

    A folder of that name is no module: there may be one in the working folder, and packages that
    compile code leave theirs when they are uninstalled.
    """
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
