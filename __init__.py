"""Reinforcement learning: train agents, compare them with baselines, and watch them play.

    import ludus

    agent = ludus.train("dqn", "CartPole-v1", steps=50_000)

Importing this package registers its envs with Gymnasium. It imports neither torch nor OpenSpiel:
the attributes below are loaded on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ludus.envs.registration import register_envs

if TYPE_CHECKING:
    from ludus.comparison.notebook import plot
    from ludus.envs.make import make
    from ludus.training.api import (
        TrainedAgent,
        episodes,
        evaluate,
        load,
        record,
        resume,
        scalars,
        train,
    )
    from ludus.training.callbacks import Callback, RunningTraining, SaveBest, StopAtScore
    from ludus.viewer.inline import watch

    __version__: str

_API, _CALLBACKS = "ludus.training.api", "ludus.training.callbacks"
_MODULES = {
    "Callback": _CALLBACKS,
    "RunningTraining": _CALLBACKS,
    "SaveBest": _CALLBACKS,
    "StopAtScore": _CALLBACKS,
    "TrainedAgent": _API,
    "episodes": _API,
    "evaluate": _API,
    "load": _API,
    "make": "ludus.envs.make",
    "plot": "ludus.comparison.notebook",
    "record": _API,
    "resume": _API,
    "scalars": _API,
    "train": _API,
    "watch": "ludus.viewer.inline",
}
__all__ = [
    "Callback",
    "RunningTraining",
    "SaveBest",
    "StopAtScore",
    "TrainedAgent",
    "__version__",
    "episodes",
    "evaluate",
    "list_agents",
    "load",
    "make",
    "plot",
    "record",
    "resume",
    "scalars",
    "train",
    "watch",
]


def list_agents() -> dict[str, str]:
    """Return the name of every agent with one line that describes it."""
    from ludus.agents.registry import names

    return names()


def _version() -> str:
    """Return the version of the installed distribution, or "0+unknown" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ludus-rl")
    except PackageNotFoundError:
        return "0+unknown"


def __getattr__(name: str) -> Any:
    """Load a public attribute on first use, and keep it."""
    if name == "__version__":
        value: Any = _version()
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names of the module, including those that are not loaded yet."""
    return sorted({*globals(), *__all__})


# pytest may execute this file a second time under the name of its folder: absolute imports only,
# and a repeated registration does nothing
register_envs()
