"""A user's own network from observations to features, in place of an encoder of Ludus."""

import copy
import importlib
import itertools
import re
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ludus.envs.env_object import importable_name, is_importable
from ludus.envs.errors import ConfigError
from ludus.envs.trust import is_kind
from ludus.networks.names import PASSED

OwnNetwork = nn.Module | Callable[[spaces.Box], nn.Module]
_passed: dict[str, tuple[object, Callable[[spaces.Box], nn.Module]]] = {}  # what, and its maker


def network_name(network: str | OwnNetwork, name: str = "") -> str:
    """Return the name under which a configuration knows a network.

    Args:
        network: `module:Class`; a class or function that is called with the observation space and
            returns a module; or a module, of which each agent gets copies.
        name: under which a run knows a network that no other process can import; "" for its own.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(network, str):
        return network
    if not callable(network):
        raise ConfigError(
            f"network is {network!r}; it must be an nn.Module, or a class or function"
        )
    if isinstance(network, nn.Module):
        own, make = type(network).__qualname__, _copies_of(network)
    elif is_importable(network) and not name:
        return importable_name(network)
    else:
        own, make = getattr(network, "__qualname__", "network"), network
    if not name:
        plain = PASSED + re.sub(r"[^\w-]+", "-", own).strip("-")
        names = itertools.chain([plain], (f"{plain}-{n}" for n in itertools.count(2)))
        name = next(n for n in names if n not in _passed or _passed[n][0] is network)
    _passed[name] = network, make
    return name


def _copies_of(module: nn.Module) -> Callable[[spaces.Box], nn.Module]:
    return lambda space: copy.deepcopy(module)


def _maker(name: str) -> Callable[[spaces.Box], nn.Module]:
    if name.startswith(PASSED):
        if name not in _passed:
            raise ConfigError(
                f"the network {name} was passed to Ludus by a Python program; pass it again as "
                "network= of ludus.load or ludus.resume"
            )
        return _passed[name][1]
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the network {name} cannot be imported: {error}") from error
    if not is_kind(found, module, nn.Module):
        raise ConfigError(f"the network {name} is {found!r}; it must be a class or a function")
    return found


class OwnEncoder(nn.Module):
    """A user's network. It gets observations as they are, images as uint8.

    Args:
        name: see `network_name`.
        space: observation space.

    Raises:
        ConfigError: it cannot be made, or does not map [N, *obs] to [N, dim].
    """

    def __init__(self, name: str, space: spaces.Box) -> None:
        super().__init__()
        try:
            self.network = _maker(name)(space)
            two = torch.zeros(2, *space.shape, dtype=torch.from_numpy(space.low[:0]).dtype)
            with torch.no_grad():
                features = self.network(two)
        except ConfigError:
            raise
        except Exception as error:  # whatever a user's network may raise
            text = " ".join(str(error).split())
            raise ConfigError(
                f"the network {name} fails for observations {space.dtype}{list(space.shape)}: "
                f"{type(error).__name__}: {text}"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
            shape = (
                list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            )
            raise ConfigError(
                f"the network {name} returns {shape} for 2 observations; it must return [2, dim]"
            )
        if features.dtype != torch.float32 or not features.shape[1]:
            raise ConfigError(
                f"the network {name} returns {features.dtype} of shape {list(features.shape)}; it "
                "must return float32 and at least one feature"
            )
        self.dim = features.shape[1]

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, *obs] to [N, dim]."""
        return self.network(obs)
