"""Settings by keyword, `ludus.train(..., learning_rate=1e-3)`: fields of several dataclasses."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from ludus.envs.env_object import importable_name
from ludus.envs.errors import ConfigError
from ludus.envs.from_json import from_json
from ludus.envs.suggest import closest

_T = TypeVar("_T")

# What Stable-Baselines3, and its users' habits, call it: what Ludus does.
SB3_NAMES = {
    "batch_size": "batch_size of DQN, minibatches of PPO",
    "buffer_size": "replay_size",
    "callback": "callbacks",
    "clip_range_vf": "value_clip",
    "ent_coef": "entropy_coef",
    "env_id": "the second argument",
    "eval_freq": "eval_every, counted over all envs",
    "exploration_final_eps": "epsilon_end",
    "exploration_fraction": "epsilon_steps, in env steps",
    "exploration_initial_eps": "epsilon_start",
    "features_extractor_class": "network",
    "features_extractor_kwargs": "network, a function of the observation space",
    "gae_lambda": "lam",
    "gradient_steps": "replay_ratio, updates per env step",
    "lr": "learning_rate",
    "n_envs": "num_envs",
    "n_epochs": "epochs",
    "n_eval_episodes": "eval_episodes",
    "n_steps": "rollout_length of PPO, n_step of DQN",
    "net_arch": "hidden, the units of each layer",
    "policy": "encoder: mlp, nature, ...",
    "policy_kwargs": "hidden, activation, encoder and network",
    "progress_bar": "quiet",
    "target_update_interval": "target_interval, in updates",
    "tau": "polyak",
    "tensorboard_log": "root: each run folder has its TensorBoard log",
    "total_timesteps": "steps",
    "train_freq": "replay_ratio, updates per env step",
    "vf_coef": "value_coef",
    "verbose": "quiet",
    "wrapper_class": "wrapper",
}


class Settings:
    """Values by field name, each of which belongs to one of several dataclasses.

    Args:
        values: value of each field.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._left = dict(values)
        if "network" in self._left:  # a name for the encoder, which may also be a module or a class
            from ludus.networks.own import network_name

            self._left["encoder"] = network_name(self._left.pop("network"))

    def apply(self, part: _T) -> _T:
        """Return a dataclass with those of the values that are its fields, and keep the others.

        Raises:
            ConfigError: a value is of another type, or out of bounds.
        """
        names = _names(part)
        own = {name: self._left.pop(name) for name in list(self._left) if name in names}
        if not own:
            return part
        changed = {name: _plain(name, value, getattr(part, name)) for name, value in own.items()}
        return from_json(type(part), asdict(part) | changed, ConfigError)  # type: ignore[call-overload]

    def require_used(self, agent: str, parts: Iterable[object]) -> None:
        """Check that every value was a field of something.

        Args:
            agent: name of the agent, for the message.
            parts: what the values may be fields of.

        Raises:
            ConfigError: one was not.
        """
        for name in self._left:
            known = sorted(set().union(*map(_names, parts)))
            ours = "root" if name == "run_dir" else SB3_NAMES.get(name)
            if ours is not None:
                raise ConfigError(f"{agent} has no setting {name}; Ludus has {ours}")
            raise ConfigError(closest(name, known, f"setting of {agent}"))


def _names(part: Any) -> set[str]:
    return {field.name for field in fields(part)}


def _plain(name: str, value: Any, default: Any) -> Any:
    """Return a value as JSON has it."""
    if name == "env_kwargs" and isinstance(value, Mapping):
        try:
            return [json.dumps(dict(value))]
        except TypeError as error:
            raise ConfigError(
                f"env_kwargs is {value!r}; its values must be JSON's: {error}"
            ) from error
    if name == "wrapper":
        several = value if isinstance(value, list | tuple) else [value]
        return [each if isinstance(each, str) else importable_name(each) for each in several]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    is_count = isinstance(default, int) and not isinstance(default, bool)
    return int(value) if is_count and isinstance(value, float) and value.is_integer() else value
