"""`ludus play RUN`: play against a trained agent, in text or in the browser."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional

from ludus.agents.agent import Advice, Advisor
from ludus.cli.options import PORT, parse
from ludus.cli.output import print_result, results
from ludus.cli.watch import browser_opener
from ludus.envs.board import spiel
from ludus.envs.bounds import NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.training.console import Terminal
from ludus.training.find_run import at_steps
from ludus.training.run import Run
from ludus.training.signals import hangup_as_sigterm
from ludus.training.train import load
from ludus.viewer.library import Library, link_to
from ludus.viewer.server import serve

HELP = "enter a move by its name or number, or one of: hint, moves, undo, help or quit"


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus play`."""

    run: Positional[Path]
    """folder of a run; RUN@STEPS for an earlier checkpoint of a board game"""
    web: bool = False
    """play in the browser: board games with the mouse, others with the keyboard"""
    port: Annotated[int, PORT] = 8008
    """TCP port of the page; 0 for a free one"""
    browser: bool = True
    """with --web, open the page in the browser, where this terminal has one"""
    side: Literal["first", "second"] = "first"
    """your side: first begins the game"""
    simulations: Annotated[int, NON_NEGATIVE] = 0
    """simulations of each move of a searching agent; 0 for the number of its configuration"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)


def run(argv: list[str]) -> int:
    """Play one game."""
    given = parse(Arguments, argv, command="play", about="Play against the agent of RUN.")
    if given.web:
        return _in_the_browser(given)
    config = Run.open(at_steps(given.run)[0]).config()
    if not spiel.is_game(config.env):
        raise UsageError(
            f"{given.run} plays {config.env}, which is shown in the browser only; add --web"
        )
    agent = load(given.run, device=given.device, simulations=given.simulations)
    if not isinstance(agent, Advisor):
        raise UsageError(
            f"{config.agent} cannot choose a move by search, policy or value; choose another run"
        )
    _TextGame(agent, config.env, given.side == "second").play()
    return 0


def _in_the_browser(given: Arguments) -> int:
    """Serve the page until Ctrl-C."""
    if given.side != "first" or given.simulations or given.device != "auto":
        raise UsageError("side and simulations are chosen on the page; leave them and device out")
    root, fragment = link_to(given.run, "play")
    open_link = browser_opener() if given.browser else None

    def print_link(link: str) -> None:
        print_result(f"open {link}; Ctrl-C stops the server")
        if open_link:
            open_link(link)

    with hangup_as_sigterm():
        serve(Library(root), print_link, port=given.port, fragment=fragment)
    return 0


class _Quit(Exception):
    """Raised when the person quits the game."""


class _TextGame:
    """A game between a person and an agent, in the terminal."""

    def __init__(self, agent: Advisor, name: str, agent_begins: bool) -> None:
        self._game = InteractiveGame(agent, name)
        self._agent_side = 0 if agent_begins else 1
        self._terminal = Terminal(file=results())

    def play(self) -> None:
        """Play until the game ends or the person quits."""
        self._print(f"{self._game.name}: you play {'second' if self._agent_side == 0 else 'first'}")
        self._print(HELP)
        try:
            while not self._game.over:
                if self._game.side_to_move == self._agent_side:
                    advice, move = self._game.advice, int(self._game.advice.action[0])
                    self._print(f"\n{self._game.state}\n{self._advice(advice, 'the agent plays')}")
                    self._game.play(move)
                else:
                    self._print(f"\n{self._game.state}")
                    self._move_of_person()
        except (_Quit, KeyboardInterrupt):
            self._print("\nyou left the game")
            return
        self._print(f"\n{self._game.state}\n{self._result()}")

    def _move_of_person(self) -> None:
        """Read commands until a move is made or taken back."""
        while True:
            self._terminal.print("your move> ", end="")
            word = sys.stdin.readline()
            if not word:
                raise _Quit
            word = word.strip()
            match word.lower():
                case "quit" | "q" | "exit":
                    raise _Quit
                case "help" | "?":
                    self._print(HELP)
                case "":
                    continue
                case "moves":
                    self._print(self._all_moves())
                case "hint":
                    self._print(self._advice(self._game.advice, "the agent would play"))
                case "undo":
                    if self._undo():
                        return
                case _:
                    move = self._parse_move(word)
                    if move is not None:
                        self._game.play(move)
                        return

    def _parse_move(self, word: str) -> int | None:
        """Return the legal move of that name or number; None, with a message, if there is none."""
        legal = self._game.legal_moves()
        for move in legal:
            if word.lower() == self._game.move_name(move).lower():
                return move
        if word.isdecimal() and int(word) in legal:
            return int(word)
        self._print(f"{word} is not a legal move; {self._all_moves()}")
        return None

    def _undo(self) -> bool:
        """Take back the person's last move and all moves after it."""
        if self._game.undo(1 - self._agent_side):
            return True
        self._print("you have made no move yet")
        return False

    def _all_moves(self) -> str:
        """List the legal moves."""
        moves = [f"{self._game.move_name(move)} ({move})" for move in self._game.legal_moves()]
        return f"legal moves: {', '.join(moves)}"

    def _advice(self, advice: Advice, verb: str) -> str:
        """Describe the agent's move, its value for the player to move, and its best moves."""
        best = self._game.move_name(int(advice.action[0]))
        value = f"value {advice.value[0]:+.2f} for the player to move"
        return f"{verb} {best} ({value}; {self._best(advice)})"

    def _best(self, advice: Advice) -> str:
        """Describe the three best moves by probability, else by value."""
        ranks = advice.probability if advice.probability is not None else advice.q
        if ranks is None:
            return "no values of single moves"
        order = sorted(
            self._game.legal_moves(), key=lambda move: -np.nan_to_num(ranks[0, move], nan=-np.inf)
        )
        best = []
        for move in order[:3]:
            text = self._game.move_name(move)
            if advice.probability is not None:
                text += f" {advice.probability[0, move]:.0%}"
            if advice.q is not None and not np.isnan(advice.q[0, move]):
                text += f" {advice.q[0, move]:+.2f}"
            best.append(text)
        return f"best: {', '.join(best)}"

    def _result(self) -> str:
        """Return the outcome for the person."""
        own = self._game.result(1 - self._agent_side)
        return "you won" if own > 0 else "you lost" if own < 0 else "a draw"

    def _print(self, text: str) -> None:
        self._terminal.print(text)
