"""An agent as one file: weights as safetensors, and its configuration as JSON in the header.

The header's `ludus` is what config.json holds of a run, with the env steps of the weights. Nothing
in the file is code, and reading it imports nothing.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ludus.envs.errors import FormatError, LudusError, RunError
from ludus.training.checkpoint import write_atomically
from ludus.training.files import open_plain, parse_json
from ludus.training.formats import check_format
from ludus.training.run import RunConfig, config_of, record_of

_HEADER = "ludus"


class SavedAgent(NamedTuple):
    """What a file holds."""

    config: RunConfig
    weights: dict[str, Tensor]
    env_steps: int


def save_agent(path: Path, config: RunConfig, weights: dict[str, Tensor], env_steps: int) -> None:
    """Write a file, in place of one of that name.

    Raises:
        RunError: it cannot be written.
    """
    record = record_of(config) | {"env_steps": env_steps}
    own = {name: w.detach().cpu().contiguous().clone() for name, w in weights.items()}
    try:
        write_atomically(path, save(own, {_HEADER: json.dumps(record)}))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def read_agent(path: Path) -> SavedAgent:
    """Read a file.

    Raises:
        RunError: there is none, it holds no agent, is damaged, or its format is too new.
    """
    try:
        os.close(open_plain(path, os.O_RDONLY))  # no link, no pipe
        with safe_open(str(path), "pt") as file:
            record = parse_json((file.metadata() or {})[_HEADER])
            check_format(record, f"the agent {path}", FormatError)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        steps = record["env_steps"]
        if type(steps) is not int or steps < 0:
            raise ValueError(f"env_steps is {steps}")
        return SavedAgent(config_of(record), weights, steps)
    except FormatError as error:
        raise RunError(str(error)) from error
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, LudusError) as error:
        raise RunError(f"{path} holds no agent of Ludus: {error}") from error
