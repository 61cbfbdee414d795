"""Transfer: start a training from the weights of another run."""

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ludus.agents.agent import AgentConfig, EnvLike, Transferable
from ludus.agents.dqn_config import DQNConfig
from ludus.envs.errors import EnvError, RunError
from ludus.envs.make import make
from ludus.training.run import Run, RunConfig

_SHAPED_BY = {  # the parts in order, and the fields that decide on the shapes of each
    "encoder": ("encoder", "hidden", "width", "features", "renormalize", "normalize_observation"),
    "core": ("core", "core_units"),
    "head": ("head", "head_hidden", "dueling", "noisy", "atoms", "quantiles"),
}


@dataclass
class Transfer:
    """Record of the parts of a network that were transferred, and of those that were not."""

    source: str
    taken: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)  # part -> reason

    def sentences(self) -> list[str]:
        """Return one sentence on the transferred parts, and one on each other part."""
        left = [f"does not take its {part}: {reason}" for part, reason in self.left.items()]
        return [f"starts from the {' and '.join(self.taken)} of {self.source}", *left]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def sentences_without_source(config: AgentConfig) -> list[str]:
    """Return what is to be said of a network that does not start from the weights of another."""
    if getattr(config, "freeze", "none") == "encoder":
        return ["the frozen encoder keeps its random weights; --init-from gives it others"]
    return []


def transfer(agent: Transferable, config: AgentConfig, run: Run, env: EnvLike) -> Transfer:
    """Transfer the encoder, the core and the head of a run to an agent, each as a whole.

    A part is transferred if all its weights have the same names and shapes, and the parts before
    it are transferred. The head also needs the same actions, by name and number, and outputs of the
    same meaning.

    Args:
        agent: a new agent; its target network gets the same weights.
        config: the agent's configuration.
        run: the run to take the weights from.
        env: the env or data set that the agent learns from.

    Raises:
        RunError: the run has no weights, or no part of them fits.
    """
    source_weights, own, source = run.newest_weights(), agent.weights(), run.config()
    found = Transfer(str(run.path))
    chosen: dict[str, Tensor] = {}
    for part in _SHAPED_BY:
        wanted = {k: v for k, v in own.items() if k.startswith(f"{part}.")}
        offered = {k: v for k, v in source_weights.items() if k.startswith(f"{part}.")}
        if not wanted and not offered:
            continue
        reason = _mismatch(wanted, offered)
        if reason:
            reason = _cause(part, config, source.config) or reason
        if part == "encoder" and not reason:
            reason = _other_normalisation(config, source.config)
        if part == "head" and not reason:
            reason = _other_outputs(config, source.config) or _other_actions(source, env)
        if found.left and not reason:
            reason = f"it follows the {next(iter(found.left))}, which stays"
        if reason:
            found.left[part] = reason
        else:
            found.taken.append(part)
            chosen |= offered
    if not found.taken:
        reasons = "; ".join(f"its {part}: {reason}" for part, reason in found.left.items())
        raise RunError(f"nothing of {run.path} fits this agent; {reasons or 'it has no network'}")
    agent.start_from(own | chosen)
    return found


def _mismatch(wanted: dict[str, Tensor], offered: dict[str, Tensor]) -> str:
    """Return the first difference in names or shapes; empty if there is none."""
    for name in sorted(set(wanted) | set(offered)):
        if name not in offered:
            return f"it has no {name}"
        if name not in wanted:
            return f"this agent has no {name}"
        ours, theirs = list(wanted[name].shape), list(offered[name].shape)
        if ours != theirs:
            return f"{name} is {theirs} there and {ours} here"
    return ""


def _cause(part: str, ours: AgentConfig, theirs: AgentConfig) -> str:
    """Return the options that give a part other shapes; empty if they are the same."""
    named = []
    for name in _SHAPED_BY[part]:
        here, there = getattr(ours, name, None), getattr(theirs, name, None)
        if here == there or None in (here, there):
            continue
        if name == "hidden" and getattr(ours, "encoder", "mlp") != "mlp":
            continue  # only an MLP has it
        named.append(f"{name} is {there} there and {here} here")
        if name == part:
            break  # of another kind, so that its other options say nothing
    return ", ".join(named)


def _other_normalisation(ours: AgentConfig, theirs: AgentConfig) -> str:
    """Return how layer normalisation differs that has weights of one shape; empty if it does not.

    In an MLP both kinds are the same.
    """
    here, there = (getattr(config, "layer_norm", "none") for config in (ours, theirs))
    if here == there or getattr(ours, "encoder", "mlp") == "mlp":
        return ""
    return f"layer_norm is {there} there and {here} here"


def _other_outputs(ours: AgentConfig, theirs: AgentConfig) -> str:
    """Return the option that gives heads of one shape outputs of another meaning, or nothing."""
    for name, absent in (("head", "q"), ("value_rescaling", False)):
        here, there = getattr(ours, name, absent), getattr(theirs, name, absent)
        if here != there:
            return f"{name} is {there} there and {here} here"
    if isinstance(ours, DQNConfig) and isinstance(theirs, DQNConfig) and ours.head == "c51":
        here, there = (ours.v_min, ours.v_max), (theirs.v_min, theirs.v_max)
        if here != there:
            return f"v_min and v_max are {there} there and {here} here"
    return ""


def _other_actions(source: RunConfig, env: EnvLike) -> str:
    """Return how the actions differ from the source's; empty if they are the same."""
    if source.env == env.env_id:
        return ""  # heads of one shape have the same number of actions
    try:
        other = make(source.env, 1, 0, source.options)
    except EnvError as error:
        return f"its actions are unknown, because {error}"
    other.close()
    names = list(other.action_names)
    if not names or names != list(getattr(env, "action_names", ())):  # a data set has none
        return f"{source.env} and {env.env_id} have different actions, or no names for them"
    return ""
