"""Configuration and preset of AlphaZero. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ludus.agents.preset import Preset, board_space
from ludus.envs.bounds import (
    AT_LEAST_ONE,
    FRACTION,
    NON_NEGATIVE,
    NON_NEGATIVE_OR_INFINITE,
    POSITIVE,
    check_bounds,
)
from ludus.envs.errors import ConfigError
from ludus.envs.from_json import former
from ludus.envs.only_with import OnlyWith

if TYPE_CHECKING:
    from ludus.agents.agent import EnvLike


_TOWER, _MLP = (OnlyWith(("encoder",), (encoder,)) for encoder in ("tower", "mlp"))
_GUMBEL, _PUCT = (OnlyWith(("search",), (search,)) for search in ("gumbel", "puct"))
_CAP = OnlyWith(("fast_simulations",))


@dataclass(frozen=True)
class AlphaZeroConfig:
    """Every choice of an AlphaZero."""

    module: ClassVar[str] = "ludus.agents.alphazero"

    encoder: Literal["tower", "mlp"] = "tower"
    """residual tower for positions that are planes, or fully connected layers"""
    tower_channels: Annotated[int, AT_LEAST_ONE, _TOWER] = field(
        default=32, metadata=former("channels")
    )
    """tower: channels of each block"""
    blocks: Annotated[int, AT_LEAST_ONE, _TOWER] = 4
    """tower: residual blocks"""
    hidden: Annotated[tuple[int, ...], AT_LEAST_ONE, _MLP] = (256, 256)
    """units of the MLP encoder's layers"""
    search: Literal["gumbel", "puct"] = "gumbel"
    """search algorithm"""
    simulations: Annotated[int, AT_LEAST_ONE] = 24
    """simulations per move in training"""
    play_simulations: Annotated[int, AT_LEAST_ONE] = 64
    """simulations per move in evaluation and play"""
    play_leaves: Annotated[int, AT_LEAST_ONE] = 8
    """about so many positions of a game in one forward pass in evaluation and play"""
    fast_simulations: Annotated[int, NON_NEGATIVE] = 0
    """playout cap: simulations of the moves whose policy is not trained on; 0 for no cap"""
    full_share: Annotated[float, FRACTION, _CAP] = 0.25
    """playout cap: fraction of the moves with all simulations"""
    considered: Annotated[int, AT_LEAST_ONE, _GUMBEL] = 16
    """gumbel: maximum number of actions considered at the root"""
    c_visit: Annotated[float, NON_NEGATIVE, _GUMBEL] = 50.0
    """gumbel: visits added to the largest visit count in sigma"""
    c_scale: Annotated[float, POSITIVE, _GUMBEL] = 0.25
    """gumbel: scale of the values against the prior logits, in training"""
    play_c_scale: Annotated[float, POSITIVE, _GUMBEL] = 1.0
    """the same in evaluation and play"""
    c_puct: Annotated[float, POSITIVE, _PUCT] = 1.25
    """puct: weight of the prior against the values"""
    dirichlet: Annotated[float, POSITIVE, _PUCT] = 10.0
    """puct: alpha of the root's Dirichlet noise, times the number of legal moves"""
    noise_share: Annotated[float, FRACTION, _PUCT] = 0.25
    """puct: fraction of noise in the root's prior, in training"""
    sampled_moves: Annotated[int, NON_NEGATIVE, _PUCT] = 10
    """puct: first moves of a training game sampled by visits; later moves are the most visited"""
    reuse_tree: bool = False
    """puct: start a search from the previous search's subtree below the move"""
    random_moves: Annotated[int, NON_NEGATIVE] = 6
    """a training game starts with up to this many random moves, which are not trained on"""
    symmetries: bool = True
    """apply a random symmetry of the game to each trained position"""
    value_target: Literal["policy", "visits", "mix"] = "policy"
    """search's value: that of the improved policy, the mean over visits, or the mean of both"""
    outcome_share: Annotated[float, FRACTION] = 0.5
    """weight of the outcome in the value target; the rest is the search's value"""
    optimizer_eps: Annotated[float, POSITIVE] = 1e-8
    """eps of Adam"""
    learning_rate: Annotated[float, POSITIVE] = 3e-3
    """step size of Adam"""
    anneal_learning_rate: bool = True
    """decrease it linearly to 0 over the training"""
    max_grad_norm: Annotated[float, NON_NEGATIVE_OR_INFINITE] = 1.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    value_coef: Annotated[float, NON_NEGATIVE] = 1.0
    """weight of the value loss"""
    batch_size: Annotated[int, AT_LEAST_ONE] = 256
    """positions in one update"""
    replay_size: Annotated[int, AT_LEAST_ONE] = 200_000
    """positions in the replay memory"""
    learning_starts: Annotated[int, NON_NEGATIVE] = 5_000
    """env steps before the first update"""
    replay_ratio: Annotated[float, POSITIVE] = 0.015
    """updates per env step"""

    def __post_init__(self) -> None:
        """Check the bounds, and refuse combinations that cannot work."""
        check_bounds(self, ConfigError)
        if self.reuse_tree and self.search == "gumbel":
            raise ConfigError(
                "reuse_tree needs the search puct: gumbel counts the visits of one search only"
            )
        if self.fast_simulations >= self.simulations:
            raise ConfigError(
                f"fast_simulations is {self.fast_simulations}; it must be below simulations, "
                f"{self.simulations}"
            )


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset: a tower where positions are planes, else fully connected layers.

    Raises:
        ConfigError: the env is no board game.
    """
    space = board_space(env)
    if space is None:
        raise ConfigError(f"{name} is for board games, `ludus list games`; not {env.env_id}")
    config = AlphaZeroConfig(encoder="tower" if len(space.shape) == 3 else "mlp")
    return Preset(config, num_envs=128, rivals=("self",))
