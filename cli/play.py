"""`ludus play RUN`: a person against a trained agent, in text or in the browser."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from tyro.conf import Positional

from ludus.agents.agent import Advice, Advisor
from ludus.cli.options import parse
from ludus.cli.watch import check_port, place
from ludus.envs.board import spiel
from ludus.envs.errors import UsageError
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.training.run import Run, at_steps
from ludus.training.train import load
from ludus.viewer.library import Library
from ludus.viewer.server import serve

HELP = "a move by its name or number; hint, moves, undo, help or quit"


@dataclass(frozen=True)
class Arguments:
    """Against whom."""

    run: Positional[Path]
    """folder of a run; RUN@STEPS for an earlier checkpoint of a board game"""
    web: bool = False
    """in the browser: board games by clicking, others with the keyboard"""
    port: int = 8008
    """of the page; 0 for any that is free"""
    side: Literal["first", "second"] = "first"
    """whether you begin"""
    simulations: int = 0
    """of an agent that searches, for each move; 0 for its own number"""
    device: str = "auto"
    """auto, cpu or cuda"""


def run(argv: list[str]) -> int:
    """Play one game."""
    given = parse(Arguments, argv, command="play", about="Play against the agent of RUN.")
    if given.web:
        return _in_the_browser(given)
    config = Run.open(at_steps(given.run)[0]).config()
    if not spiel.is_game(config.env):
        raise UsageError(f"{given.run} plays {config.env}, which needs a page: add --web")
    agent = load(given.run, device=given.device, simulations=given.simulations)
    if not isinstance(agent, Advisor):
        raise UsageError(f"{config.agent} has no opinion to play by; choose another run")
    game = _Game(agent, config.env, given.side == "second")
    game.play()
    return 0


def _in_the_browser(given: Arguments) -> int:
    check_port(given.port)
    if given.side != "first" or given.simulations or given.device != "auto":
        raise UsageError("side and simulations are chosen on the page; leave them and device out")
    root, fragment = place(given.run, "play")

    def say(link: str) -> None:
        print(f"open {link}; Ctrl-C ends it", flush=True)

    serve(Library(root), say, port=given.port, fragment=fragment)
    return 0


class _Left(Exception):
    """The person has left."""


class _Game:
    """One game in text."""

    def __init__(self, agent: Advisor, name: str, agent_begins: bool) -> None:
        self._duel, self._agent_side = InteractiveGame(agent, name), 0 if agent_begins else 1
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def play(self) -> None:
        """To its end, or until the person leaves."""
        self._say(f"{self._duel.name}: you play {'second' if self._agent_side == 0 else 'first'}")
        self._say(HELP)
        try:
            while not self._duel.over:
                if self._duel.mover == self._agent_side:
                    advice, move = self._duel.advice, int(self._duel.advice.action[0])
                    self._say(f"\n{self._duel.state}\n{self._opinion(advice, 'the agent plays')}")
                    self._duel.make(move)
                else:
                    self._say(f"\n{self._duel.state}")
                    self._person()
        except (_Left, KeyboardInterrupt):
            self._say("\nyou left the game")
            return
        self._say(f"\n{self._duel.state}\n{self._result()}")

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
                    self._say(self._opinion(self._duel.advice, "the agent would play"))
                case "undo":
                    if self._take_back():
                        return
                case _:
                    move = self._understand(word)
                    if move is not None:
                        self._duel.make(move)
                        return

    def _understand(self, word: str) -> int | None:
        legal = self._duel.legal()
        for move in legal:
            if word.lower() == self._duel.action(move).lower():
                return move
        if word.isdecimal() and int(word) in legal:
            return int(word)
        self._say(f"{word} is no legal move here; {self._all_moves()}")
        return None

    def _take_back(self) -> bool:
        """The person's last move and all after it."""
        if self._duel.take_back(1 - self._agent_side):
            return True
        self._say("you have made no move yet")
        return False

    def _all_moves(self) -> str:
        told = [f"{self._duel.action(move)} ({move})" for move in self._duel.legal()]
        return f"legal moves: {', '.join(told)}"

    def _opinion(self, advice: Advice, verb: str) -> str:
        """What the agent would do, its value, and its best moves."""
        best = self._duel.action(int(advice.action[0]))
        return f"{verb} {best} (value {advice.value[0]:+.2f} for who moves; {self._best(advice)})"

    def _best(self, advice: Advice) -> str:
        ranks = advice.probability if advice.probability is not None else advice.q
        if ranks is None:
            return "no opinion on single moves"
        order = sorted(
            self._duel.legal(), key=lambda move: -np.nan_to_num(ranks[0, move], nan=-np.inf)
        )
        told = []
        for move in order[:3]:
            text = self._duel.action(move)
            if advice.probability is not None:
                text += f" {advice.probability[0, move]:.0%}"
            if advice.q is not None and not np.isnan(advice.q[0, move]):
                text += f" {advice.q[0, move]:+.2f}"
            told.append(text)
        return f"best: {', '.join(told)}"

    def _result(self) -> str:
        own = self._duel.result(1 - self._agent_side)
        return "you won" if own > 0 else "you lost" if own < 0 else "a draw"

    def _say(self, text: str) -> None:
        self._console.print(text)
