"""Transfer: a training that starts from what another run has learned."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ludus.agents import presets
from ludus.agents.dqn import DQNConfig
from ludus.envs.errors import EnvError, RunError
from ludus.envs.make import make
from ludus.training.run import Run, RunConfig

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

    def sentences(self) -> list[str]:
        """One on what was taken, and one on each part that was not."""
        left = [f"does not take its {part}: {why}" for part, why in self.left.items()]
        return [f"starts from the {' and '.join(self.taken)} of {self.source}", *left]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def transfer(agent: Learner, config: presets.Config, run: Run, env: presets.EnvLike) -> Transfer:
    """Give an agent the encoder, the core and the head of a run, each where it fits as a whole.

    The head fits where the actions are the same, by name and number, and where its numbers mean the
    same.

    Args:
        agent: fresh; its target network gets the same weights.
        config: of the agent.
        run: where the weights come from.
        env: what the agent learns from.

    Raises:
        RunError: the run has no weights, or nothing of it fits.
    """
    theirs, own, source = run.newest_weights(), agent.weights(), run.config()
    found = Transfer(str(run.path))
    chosen: dict[str, Tensor] = {}
    for part in _PARTS:
        wanted = {k: v for k, v in own.items() if k.startswith(f"{part}.")}
        offered = {k: v for k, v in theirs.items() if k.startswith(f"{part}.")}
        if not wanted and not offered:
            continue
        why = _why_not(wanted, offered)
        if part == "head" and not why:
            why = _other_meaning(config, source.config) or _other_actions(source, env)
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


def _other_meaning(ours: presets.Config, theirs: presets.Config) -> str:
    """Which choice makes the same weights say something else, in heads of one shape."""
    for name, absent in (("head", "q"), ("value_rescaling", False)):
        here, there = getattr(ours, name, absent), getattr(theirs, name, absent)
        if here != there:
            return f"{name} is {there} there and {here} here"
    if isinstance(ours, DQNConfig) and isinstance(theirs, DQNConfig) and ours.head == "c51":
        here, there = (ours.v_min, ours.v_max), (theirs.v_min, theirs.v_max)
        if here != there:
            return f"v_min and v_max are {there} there and {here} here"
    return ""


def _other_actions(source: RunConfig, env: presets.EnvLike) -> str:
    if source.env == env.env_id:
        return ""  # a head of one shape has as many actions
    try:
        other = make(source.env, 1, 0, source.options)
    except EnvError as error:
        return f"its actions are not known, because {error}"
    other.close()
    names = list(other.action_names)
    if not names or names != list(getattr(env, "action_names", ())):  # a data set has none
        return f"{source.env} and {env.env_id} have other actions, or no names for them"
    return ""
