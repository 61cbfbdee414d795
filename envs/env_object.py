"""Envs that a program passes in place of an id: objects, classes and functions.

An object cannot be copied, so it runs in this process and without a time limit, training and
evaluation share it, and it is never closed here.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv

from ludus.envs.errors import EnvError

PREFIX = "passed/"  # of the ids of objects, and of classes without a name that can be imported
PassedEnv = Callable[..., gymnasium.Env[Any, Any]] | gymnasium.Env[Any, Any] | GymnasiumVectorEnv


class EnvObject:
    """One env object, which several vector envs may use, one after the other.

    Args:
        env: a `gymnasium.Env` or a `gymnasium.vector.VectorEnv`.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._user: object = None

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Return the env, as a class would."""
        return _SharedEnv(self)

    def begin(self, user: object) -> None:
        """Note that `user` resets the env."""
        self._user = user

    def require(self, user: object) -> None:
        """Check that `user` was the last to reset the env.

        Raises:
            EnvError: another one has, in the middle of this one's episode.
        """
        if self._user is not user:
            raise EnvError("was reset by somebody else in the middle of its episode")


class _SharedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One use of an env object; closing it leaves the object open."""

    def __init__(self, shared: EnvObject) -> None:
        super().__init__(shared.env)
        self._shared = shared

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode, and with it this use."""
        self._shared.begin(self)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Step the env."""
        self._shared.require(self)
        return self.env.step(action)

    def close(self) -> None:
        """Do nothing: the env belongs to the program that passed it."""


def env_name(env: str | PassedEnv, env_id: str = "") -> str:
    """Return the id of an env that may be passed in its place.

    A class or a function of a module that other processes can import is `module:Class`. Everything
    else is registered with Gymnasium for this process, and replaces what was passed under the same
    name before.

    Args:
        env: an id, a class or a function that returns an env, or an env.
        env_id: id under which a run knows the env; "" for that of its own name.

    Raises:
        EnvError: it is none of these, or `env_id` is not of a passed env.
    """
    if env_id and (isinstance(env, str) or not env_id.startswith(PREFIX)):
        raise EnvError(f"{env_id} is made from its id; leave env out")
    if isinstance(env, str):
        return env
    limit = None
    entry_point: Any
    if isinstance(env, gymnasium.Env | GymnasiumVectorEnv):
        entry_point, spec = _shared(env), _spec_of(env)
        name = type(env.unwrapped).__name__ if spec is None else spec.id
        limit = None if spec is None else spec.max_episode_steps
    elif callable(env):
        entry_point, name = env, getattr(env, "__qualname__", type(env).__name__)
        if not env_id and is_importable(env):
            return importable_name(env)
    else:
        raise EnvError(
            f"{env!r} is no env id, no class or function that returns an env, no gymnasium.Env and "
            "no gymnasium.vector.VectorEnv"
        )
    own = env_id or PREFIX + (re.sub(r"[^\w-]+", "-", name).strip("-") or "env")
    gymnasium.registry[own] = EnvSpec(id=own, entry_point=entry_point, max_episode_steps=limit)
    return own


def _shared(env: gymnasium.Env[Any, Any] | GymnasiumVectorEnv) -> EnvObject:
    """Return the `EnvObject` of an env: one for all ids under which it is passed."""
    for spec in gymnasium.registry.values():
        if isinstance(spec.entry_point, EnvObject) and spec.entry_point.env is env:
            return spec.entry_point
    return EnvObject(env)


def _spec_of(env: gymnasium.Env[Any, Any] | GymnasiumVectorEnv) -> EnvSpec | None:
    """Return the spec of an env, or of the first env of a vector env; None if it has none."""
    if env.spec is not None or isinstance(env, gymnasium.Env):
        return env.spec
    try:
        spec = env.get_attr("spec")[0]  # type: ignore[attr-defined]  # not of all vector envs
    except Exception:  # whatever a user's vector env may raise
        return None
    return spec if isinstance(spec, EnvSpec) else None


def is_importable(thing: Any) -> bool:
    """Return whether another process finds a class or function by its module and its name."""
    module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")
    found = getattr(sys.modules.get(module), name, None)
    return module != "__main__" and found is thing and can_import(module)


def importable_name(thing: Any) -> str:
    """Return `module:name` of a class or function.

    Raises:
        EnvError: no other process finds it under that name.
    """
    if not is_importable(thing):
        raise EnvError(
            f"{thing!r} cannot be imported by other processes; define it at the top of a module "
            "that is no script or notebook"
        )
    return f"{thing.__module__}:{thing.__qualname__}"


def env_object(env_id: str) -> EnvObject | None:
    """Return the object that was passed as this env in this process; None if there is none."""
    spec = gymnasium.registry.get(env_id)
    found = None if spec is None else spec.entry_point
    return found if isinstance(found, EnvObject) else None


def can_import(module: str) -> bool:
    """Return whether another process with this path would find a module."""
    package = module.partition(".")[0]
    if package in sys.builtin_module_names:
        return True
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and find(package, None) is not None:
            return True
    return False
