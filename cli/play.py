"""`ludus play RUN`: a person against a trained agent, in text."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from tyro.conf import Positional

from ludus.agents.agent import Advice, Advisor
from ludus.cli.options import UsageError, parse
from ludus.envs.board import spiel
from ludus.envs.make import make
from ludus.envs.packing import MASK, Packed
from ludus.training.run import Run, at_steps
from ludus.training.train import load

HELP = "a move by its name or number; hint, moves, undo, help or quit"


@dataclass(frozen=True)
class Arguments:
    """Against whom."""

    run: Positional[Path]
    """folder of a run on a board game; RUN@STEPS for an earlier checkpoint"""
    side: Literal["first", "second"] = "first"
    """whether you begin"""
    simulations: int = 0
    """of an agent that searches, for each move; 0 for its own number"""
    device: str = "auto"
    """auto, cpu or cuda"""


def run(argv: list[str]) -> int:
    """Play one game."""
    given = parse(Arguments, argv, verb="play", about="Play a board game against RUN.")
    config = Run.open(at_steps(given.run)[0]).config()
    if not spiel.is_game(config.env):
        raise UsageError(f"{given.run} plays {config.env}; ludus play is for board games")
    agent = load(given.run, device=given.device, simulations=given.simulations)
    if not isinstance(agent, Advisor):
        raise UsageError(f"{config.agent} has no opinion to play by; choose another run")
    game = _Game(agent, config.env, given.side == "second")
    game.play()
    return 0


class _Left(Exception):
    """The person has left."""


class _Game:
    """One game; it is played again from its start when moves are taken back."""

    def __init__(self, agent: Advisor, name: str, agent_begins: bool) -> None:
        self._agent, self._name, self._agent_side = agent, name, 0 if agent_begins else 1
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._go_to([])

    def _go_to(self, moves: list[int]) -> None:
        """Stand where these moves lead; the agent has seen each position on the way."""
        self._moves = list[int]()
        self._state = spiel.load(self._name).new_initial_state()
        self._env = make(self._name, 1, 0)
        self._core: Any = None
        self._row = self._env.reset()
        self._look()
        for move in moves:
            self._make(move)

    def _look(self) -> None:
        self._advice, self._core = self._agent.advise(self._row.obs, self._core, self._row.first)

    def _make(self, move: int) -> None:
        self._state.apply_action(move)
        self._moves.append(move)
        self._env.send(np.array([move]))
        self._row = self._env.recv()
        if not self._row.game_over[0]:
            self._look()

    def play(self) -> None:
        """To its end, or until the person leaves."""
        self._say(f"{self._name}: you play {'second' if self._agent_side == 0 else 'first'}")
        self._say(HELP)
        try:
            while not self._row.game_over[0]:
                if self._state.current_player() == self._agent_side:
                    advice, move = self._advice, int(self._advice.action[0])
                    self._say(f"\n{self._state}\n{self._opinion(advice, 'the agent plays')}")
                    self._make(move)
                else:
                    self._say(f"\n{self._state}")
                    self._person()
        except (_Left, KeyboardInterrupt):
            self._say("\nyou left the game")
            return
        self._say(f"\n{self._state}\n{self._result()}")

    def _person(self) -> None:
        """Ask until a move is made or taken back."""
        while True:
            self._console.print("your move> ", end="")
            word = sys.stdin.readline()
            if not word:
                raise _Left
            word = word.strip()
            match word.lower():
                case "quit" | "q" | "exit":
                    raise _Left
                case "help" | "?":
                    self._say(HELP)
                case "":
                    continue
                case "moves":
                    self._say(self._all_moves())
                case "hint":
                    self._say(self._opinion(self._advice, "the agent would play"))
                case "undo":
                    if self._take_back():
                        return
                case _:
                    move = self._understand(word)
                    if move is not None:
                        self._make(move)
                        return

    def _understand(self, word: str) -> int | None:
        legal = self._legal()
        for move in legal:
            if word.lower() == self._action(move).lower():
                return move
        if word.isdecimal() and int(word) in legal:
            return int(word)
        self._say(f"{word} is no legal move here; {self._all_moves()}")
        return None

    def _take_back(self) -> bool:
        """The person's last move and all after it."""
        player, state = 1 - self._agent_side, spiel.load(self._name).new_initial_state()
        own = []
        for number, move in enumerate(self._moves):
            if state.current_player() == player:
                own.append(number)
            state.apply_action(move)
        if not own:
            self._say("you have made no move yet")
            return False
        self._go_to(self._moves[: own[-1]])
        return True

    def _legal(self) -> list[int]:
        space = self._env.observation_space
        assert isinstance(space, Packed)
        mask = space.parts[MASK]
        return np.flatnonzero(self._row.obs[0, mask.start : mask.end]).tolist()

    def _action(self, move: int) -> str:
        return str(self._state.action_to_string(self._state.current_player(), move))

    def _all_moves(self) -> str:
        told = [f"{self._action(move)} ({move})" for move in self._legal()]
        return f"legal moves: {', '.join(told)}"

    def _opinion(self, advice: Advice, verb: str) -> str:
        """What the agent would do, its value, and its best moves."""
        best = self._action(int(advice.action[0]))
        return f"{verb} {best} (value {advice.value[0]:+.2f} for who moves; {self._best(advice)})"

    def _best(self, advice: Advice) -> str:
        ranks = advice.probability if advice.probability is not None else advice.q
        if ranks is None:
            return "no opinion on single moves"
        order = sorted(self._legal(), key=lambda move: -np.nan_to_num(ranks[0, move], nan=-np.inf))
        told = []
        for move in order[:3]:
            text = self._action(move)
            if advice.probability is not None:
                text += f" {advice.probability[0, move]:.0%}"
            if advice.q is not None and not np.isnan(advice.q[0, move]):
                text += f" {advice.q[0, move]:+.2f}"
            told.append(text)
        return f"best: {', '.join(told)}"

    def _result(self) -> str:
        first = float(self._row.episode_return[0])  # of who began
        own = -first if self._agent_side == 0 else first
        return "you won" if own > 0 else "you lost" if own < 0 else "a draw"

    def _say(self, text: str) -> None:
        self._console.print(text)
