"""Make one env of a user from its spec; pickled into the processes of the workers."""

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from ludus.envs.errors import EnvError
from ludus.envs.trust import is_kind


@dataclass(frozen=True)
class EnvMaker:
    """Makes one env, without its passive checker."""

    source: EnvSpec | Callable[..., Any]
    """registered spec, or a class or function that returns an env"""
    modules: tuple[str, ...] = ()
    """modules to import first"""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the env's constructor"""
    wrappers: tuple[str, ...] = ()
    """wrappers as `module:Class`, the innermost first"""
    max_episode_steps: int | None = None
    """steps after which an episode is truncated; None for the spec's own"""
    render: bool = False
    """make an env that can render images"""

    def preload(self) -> None:
        """Import everything that making an env needs."""
        for module in self.modules:
            importlib.import_module(module)
        source = self.source.entry_point if isinstance(self.source, EnvSpec) else None
        if isinstance(source, str):
            importlib.import_module(source.partition(":")[0])
        for wrapper in self.wrappers:
            load_wrapper(wrapper)

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make the env."""
        self.preload()
        if self.render:  # pygame needs no window for an image, but fails without a screen
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
            try:
                with warnings.catch_warnings():  # of an env that does not list this mode
                    warnings.filterwarnings("ignore", message=".*render_mode")
                    return self._wrapped(self._make({"render_mode": "rgb_array"}))
            except TypeError as error:  # a constructor without this argument
                if "render_mode" not in str(error):
                    raise
        return self._wrapped(self._make({}))

    def _make(self, render: dict[str, str]) -> gymnasium.Env[Any, Any]:
        if isinstance(self.source, EnvSpec):
            return gymnasium.make(
                self.source,
                max_episode_steps=self.max_episode_steps,
                disable_env_checker=True,
                **self.kwargs,
                **render,
            )
        env = self.source(**self.kwargs, **render)
        if self.max_episode_steps is not None:
            env = gymnasium.wrappers.TimeLimit(env, self.max_episode_steps)
        return env

    def _wrapped(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        for wrapper in self.wrappers:
            env = load_wrapper(wrapper)(env)
        return env


def load_wrapper(name: str) -> Callable[[Any], Any]:
    """Import a wrapper named `module:Class`.

    Raises:
        EnvError: the name has another form, or there is no such class.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise EnvError(f"the wrapper {name} must be named as module:Class")
    wrapper: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(wrapper, part):
            raise EnvError(f"the module {module} has no {attribute}, which a wrapper names")
        wrapper = getattr(wrapper, part)
    if not is_kind(wrapper, module, gymnasium.Wrapper):
        raise EnvError(f"{name} is {wrapper!r}; it must be a gymnasium.Wrapper")
    loaded: Callable[[Any], Any] = wrapper
    return loaded
