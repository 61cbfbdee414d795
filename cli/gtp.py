"""`ludus gtp RUN`: play go in other programs, such as Sabaki, by the Go Text Protocol."""

import contextlib
import io
import sys
from dataclasses import dataclass
from typing import Annotated

import pyspiel
from tyro.conf import Positional

from ludus.agents.agent import Advisor
from ludus.cli.options import parse
from ludus.cli.output import print_result
from ludus.envs.board import spiel
from ludus.envs.board.opponent_names import is_opponent
from ludus.envs.board.opponents import make_opponent
from ludus.envs.bounds import NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.evaluation.gtp import GtpEngine
from ludus.evaluation.interactive_game import AgentOpponent
from ludus.training.find_run import at_steps
from ludus.training.run import Run
from ludus.training.train import load

ABOUT = """Speak the Go Text Protocol (version 2) on stdin and stdout for an agent of go.

examples:
  ludus gtp RUN
  ludus gtp mcts:1000 --game "go(board_size=9)"
  gogui-twogtp -black "ludus gtp RUN" -white "gnugo --mode gtp" -size 9 -komi 7.5 -auto"""


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus gtp`."""

    player: Positional[str]
    """folder of a run of go, RUN@STEPS for an earlier checkpoint; or a player: random, mcts:100"""
    game: str = "go"
    """game that a player begins with; a run plays the board and the komi of its training"""
    simulations: Annotated[int, NON_NEGATIVE] = 0
    """simulations of each move of a searching agent; 0 for the number of its configuration"""
    seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of a player"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)


def run(argv: list[str]) -> int:
    """Answer commands until `quit` or the end of stdin."""
    given = parse(Arguments, argv, command="gtp", about=ABOUT)
    engine = _engine(given)
    if isinstance(sys.stdin, io.TextIOWrapper):
        with contextlib.suppress(ValueError, OSError):
            sys.stdin.reconfigure(errors="replace")
    while not engine.ended and (line := sys.stdin.readline()):
        answer = engine.answer(line)
        if answer is not None:
            print_result(answer + "\n")
    return 0


def _engine(given: Arguments) -> GtpEngine:
    """Return the engine of a run or of a fixed player."""
    if is_opponent(given.player):
        rules = _go(given.game, given.player)
        return GtpEngine(
            f"Ludus {given.player}",
            given.game,
            make_opponent(given.player, rules, given.seed),
            lambda rules: make_opponent(given.player, rules, given.seed),
        )
    config = Run.open(at_steps(given.player)[0]).config()
    _go(config.env, given.player)
    agent = load(given.player, device=given.device, simulations=given.simulations)
    if not isinstance(agent, Advisor):
        raise UsageError(
            f"{config.agent} cannot choose a move by search, policy or value; choose another run"
        )
    return GtpEngine(f"Ludus {config.agent}", config.env, AgentOpponent(agent, config.env))


def _go(game: str, player: str) -> pyspiel.Game:
    """Return the rules of a game of go.

    Raises:
        UsageError: the game is another one.
    """
    rules = spiel.load(game) if spiel.is_game(game) else None
    if rules is None or rules.get_type().short_name != "go":
        raise UsageError(f"GTP is a protocol of go; {player} plays {game}")
    if rules.get_parameters()["handicap"] > 1:
        raise UsageError(f"GTP sets a handicap itself; {game} begins with one")
    return rules
