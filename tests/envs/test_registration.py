"""Every env of ours is registered by name alone: no library is loaded before an env is made."""

import subprocess
import sys

import gymnasium

from ludus.envs.board import spiel
from ludus.envs.board.gym_env import BoardEnv
from ludus.envs.registration import BOARD_ENV_IDS, BOARD_GAMES, register_envs

_SCRIPT = """
import sys
import gymnasium
from ludus.envs.registration import register_envs
register_envs()
heavy = {"torch", "pyspiel", "ale_py", "ludus.envs.probes"} & set(sys.modules)
assert not heavy, heavy
env = gymnasium.make("ludus/Recall-v0")
assert "torch" not in sys.modules
env = gymnasium.make("ludus/connect_four-v0", opponent="greedy")
print(env.reset(seed=0)[0].shape)
print(gymnasium.make("ludus.envs.board.gym_env:ludus/nim-v0").spec.id)
"""


def test_the_list_of_board_games_is_openspiel_s():
    assert list(BOARD_GAMES) == spiel.names()


def test_registration_loads_neither_torch_nor_openspiel():
    ran = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n")[:2] == ["(2, 6, 7)", "ludus/nim-v0"]


def test_every_board_game_is_registered_and_can_be_made():
    for env_id, game in zip(BOARD_ENV_IDS, BOARD_GAMES, strict=True):
        env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
        assert isinstance(env, BoardEnv)
        assert env._game.name == spiel.make_game(game).name


def test_a_second_registration_changes_nothing(recwarn):
    before = dict(gymnasium.registry)
    register_envs()
    assert gymnasium.registry == before
    assert not recwarn.list
