"""Transfer: a training that starts from what another run has learned."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ludus.agents.presets import EnvLike
from ludus.envs.make import make
from ludus.training.run import Run, RunError

_PARTS = ("encoder", "core", "head")


@runtime_checkable
class Learner(Protocol):
    """What can take weights."""

    def weights(self) -> dict[str, Tensor]:
        """By name: encoder., core. and head."""

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take these weights, for the target network too."""


@dataclass
class Transfer:
    """What was taken from a run, and what was not."""

    source: str
    taken: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)  # part -> why

    def sentence(self) -> str:
        """In one line."""
        left = "".join(f"; not its {part}: {why}" for part, why in self.left.items())
        return f"starts from the {' and '.join(self.taken)} of {self.source}{left}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def transfer(agent: Learner, run: Run, env: EnvLike) -> Transfer:
    """Give an agent the encoder, the core and the head of a run, each where it fits as a whole.

    The head fits where the actions are the same, by name and number.

    Raises:
        RunError: the run has no weights, or nothing of it fits.
    """
    theirs, own, config = run.newest_weights(), agent.weights(), run.config()
    found = Transfer(str(run.path))
    chosen: dict[str, Tensor] = {}
    for part in _PARTS:
        wanted = {k: v for k, v in own.items() if k.startswith(f"{part}.")}
        offered = {k: v for k, v in theirs.items() if k.startswith(f"{part}.")}
        if not wanted and not offered:
            continue
        why = _why_not(wanted, offered)
        if part == "head" and not why and config.env != env.env_id:
            other = make(config.env, 1, 0, config.options)
            other.close()
            if _actions(other) != _actions(env):
                why = f"{config.env} and {env.env_id} have other actions"
        if why:
            found.left[part] = why
        else:
            found.taken.append(part)
            chosen |= offered
    if not found.taken:
        reasons = "; ".join(f"its {part}: {why}" for part, why in found.left.items())
        raise RunError(f"nothing of {run.path} fits this agent; {reasons or 'it has no network'}")
    agent.start_from(own | chosen)
    return found


def _why_not(wanted: dict[str, Tensor], offered: dict[str, Tensor]) -> str:
    for name in sorted(set(wanted) | set(offered)):
        if name not in offered:
            return f"it has no {name}"
        if name not in wanted:
            return f"this agent has no {name}"
        ours, theirs = list(wanted[name].shape), list(offered[name].shape)
        if ours != theirs:
            return f"{name} is {theirs} there and {ours} here"
    return ""


def _actions(env: EnvLike) -> tuple[Any, list[str]]:
    backend = getattr(env, "backend", None)  # a data set has none
    return env.action_space, list(backend.action_names) if backend is not None else []
