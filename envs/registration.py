"""Registration of every env of Ludus with Gymnasium, by string entry points.

Imports neither torch nor OpenSpiel; `gymnasium.make` imports an env's module when it makes the env.
"""

import gymnasium

# OpenSpiel's games that `ludus.envs.board.spiel` accepts, with their default parameters
BOARD_GAMES = (
    "amazons",
    "antichess",
    "breakthrough",
    "checkers",
    "chess",
    "chinese_checkers",
    "clobber",
    "connect_four",
    "crazyhouse",
    "cursor_go",
    "dots_and_boxes",
    "go",
    "gomoku",
    "havannah",
    "hex",
    "hive",
    "lines_of_action",
    "mancala",
    "mnk",
    "nim",
    "nine_mens_morris",
    "othello",
    "oware",
    "pentago",
    "quoridor",
    "shogi",
    "tic_tac_toe",
    "twixt",
    "ultimate_tic_tac_toe",
    "xiangqi",
    "y",
)

BOARD_ENV_IDS = tuple(f"ludus/{name}-v0" for name in BOARD_GAMES)


def register_envs() -> None:
    """Register the probe envs and the board games under `ludus/`; a second call does nothing."""
    probes = "ludus.envs.probes"
    _register("ludus/Identity-v0", f"{probes}:Identity")
    _register("ludus/DelayedReward-v0", f"{probes}:DelayedReward")
    _register("ludus/Truncation-v0", f"{probes}:Truncation")
    _register("ludus/Recall-v0", f"{probes}:Recall")
    _register("ludus/LongRecall-v0", f"{probes}:Recall", {"delay": 20})
    _register("ludus/MaskedCartPole-v0", f"{probes}:MaskedCartPole", max_episode_steps=500)
    for env_id, game in zip(BOARD_ENV_IDS, BOARD_GAMES, strict=True):
        _register(env_id, "ludus.envs.board.gym_env:BoardEnv", {"game": game})


def _register(
    env_id: str,
    entry_point: str,
    arguments: dict[str, object] | None = None,
    max_episode_steps: int | None = None,
) -> None:
    """Register one env; `arguments` are given to its constructor."""
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point=entry_point,
            max_episode_steps=max_episode_steps,
            kwargs=arguments or {},
        )
