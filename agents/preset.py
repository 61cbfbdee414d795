"""A preset: an agent's configuration for a kind of env. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from gymnasium import spaces

    from ludus.agents.agent import AgentConfig, EnvLike

Family = Literal["classic", "minatar", "atari"]
OptimizerName = Literal["adam", "radam", "rmsprop", "plain_rmsprop", "sgd", "adagrad"]
AnyOptimizerName = Literal[OptimizerName, "adamw"]
WITH_EPS = ("adam", "radam", "rmsprop", "plain_rmsprop", "adagrad")


class Preset(NamedTuple):
    """A named configuration for one env, and the defaults of a training with it."""

    config: AgentConfig
    num_envs: int = 8  # envs that step together
    # Board games: opponents drawn from for each game. Connect four: with these PPO took 97% of the
    # points against random play, with (self, self, past) 83% to 92%.
    rivals: tuple[str, ...] = ("self", "past", "random", "random")


def family(env: EnvLike) -> Family:
    """Return which defaults suit the env: by the shape of its largest image, if it has one."""
    from ludus.envs.dict_observation import PackedDict

    space = env.observation_space
    parts = space.parts.values() if isinstance(space, PackedDict) else ()
    boxes = [space, *(part.space for part in parts)]
    sides = [min(box.shape[1:]) for box in boxes if len(box.shape) == 3]
    if not sides:
        return "classic"
    return "atari" if max(sides) >= 36 else "minatar"


def board_space(env: EnvLike) -> spaces.Box | None:
    """Return the space of a board game's positions; None where the env is no board game."""
    from ludus.envs.board.game import BOARD
    from ludus.envs.dict_observation import PackedDict

    space = env.observation_space
    if not isinstance(space, PackedDict) or not space.board_game:
        return None
    return space.parts[BOARD].space
