"""The Go Text Protocol, version 2: a player of go as an engine for Sabaki, GoGui and the like.

https://www.lysator.liu.se/~gunnar/gtp/gtp2-spec-draft2/gtp2-spec.html

Games are OpenSpiel's: area scoring with all stones alive, a game of a repeated position is a draw.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyspiel

import ludus
from ludus.envs.board import spiel
from ludus.envs.board.gtp import COLOURS, action_of, vertex_of
from ludus.envs.board.opponents import Opponent
from ludus.envs.board.positions.grid import GO
from ludus.envs.errors import LudusError

_SMALLEST_HANDICAP = 7  # side of the smallest board with fixed handicap points


class _Refused(Exception):
    """Raised with the text of an error response."""


class GtpEngine:
    """Answers the commands of one session.

    Args:
        name: of the engine.
        game: OpenSpiel's go, with parameters.
        player: chooses the moves.
        remake: makes the player for another size or komi; None for one that plays this game only.
    """

    def __init__(
        self,
        name: str,
        game: str,
        player: Opponent,
        remake: Callable[[pyspiel.Game], Opponent] | None = None,
    ) -> None:
        self._name, self._rules, self._player = name, spiel.load(game), player
        self._remake = remake
        self._begin()
        self.ended = False
        self._commands: dict[str, Callable[[Sequence[str]], str]] = {
            "protocol_version": lambda _: "2",
            "name": lambda _: self._name,
            "version": lambda _: ludus.__version__,
            "known_command": self._known_command,
            "list_commands": lambda _: "\n".join(self._commands),
            "quit": self._quit,
            "boardsize": self._boardsize,
            "clear_board": self._clear_board,
            "komi": self._komi,
            "fixed_handicap": self._fixed_handicap,
            "place_free_handicap": self._fixed_handicap,
            "set_free_handicap": self._set_free_handicap,
            "play": self._play,
            "genmove": self._genmove,
            "reg_genmove": self._reg_genmove,
            "undo": self._undo,
            "time_settings": self._ignore,
            "time_left": self._ignore,
            "final_score": self._final_score,
            "showboard": lambda _: "\n" + board_text(self._state),
        }

    def answer(self, line: str) -> str | None:
        """Return the response to a line, without the empty line after it; None if there is none."""
        # a control character counts for nothing, a tab for a space, and a comment goes to the end
        text = "".join(c for c in line.replace("\t", " ").partition("#")[0] if c.isprintable())
        match = re.match(r"(\d*)\s*(\S*)(.*)", text.strip(), re.ASCII)
        assert match is not None
        number, command, words = match[1], match[2], match[3].split()
        if not number and not command:
            return None
        try:
            if command not in self._commands:
                raise _Refused("unknown command")
            return f"={number} {self._commands[command](words)}"
        except (_Refused, LudusError) as error:
            return f"?{number} {' '.join(str(error).split())}"

    @property
    def _size(self) -> int:
        return int(self._rules.get_parameters()["board_size"])

    def _begin(self) -> None:
        """Start a game; each of its moves is a list, with the passes that it needed before it."""
        self._moves = list[list[int]]()
        self._state = self._rules.new_initial_state()

    def _set_rules(self, size: int, komi: float, refusal: str) -> None:
        """Change the game, and the player with it.

        Raises:
            _Refused: the player does not play it.
        """
        given = self._rules.get_parameters()
        if (size, komi) == (given["board_size"], given["komi"]):
            return
        if self._remake is None:
            only = f"{given['board_size']}x{given['board_size']} with komi {given['komi']:g}"
            raise _Refused(f"{refusal}: this agent was trained for {only}")
        try:
            rules = spiel.load(f"go(board_size={size},komi={komi})")
        except LudusError as error:
            raise _Refused(refusal) from error
        self._rules, self._player = rules, self._remake(rules)

    def _boardsize(self, words: Sequence[str]) -> str:
        size = _number(words, 0)
        self._set_rules(size, self._rules.get_parameters()["komi"], "unacceptable size")
        self._begin()
        return ""

    def _komi(self, words: Sequence[str]) -> str:
        try:
            komi = float(words[0])
        except (ValueError, IndexError):
            raise _Refused("komi not a float") from None
        if not math.isfinite(komi) or abs(komi) > 1e3:
            raise _Refused("unacceptable komi")
        self._set_rules(self._size, komi, "unacceptable komi")
        self._replay(self._moves)
        return ""

    def _replay(self, moves: list[list[int]]) -> None:
        self._begin()
        for added in moves:
            self._apply(added)

    def _apply(self, added: list[int]) -> None:
        for action in added:
            self._state.apply_action(action)
        self._moves.append(added)

    def _clear_board(self, words: Sequence[str]) -> str:
        self._begin()
        return ""

    def _turn_to(self, player: int) -> list[int]:
        """Return the pass that lets a player be to move, if it takes one.

        Raises:
            _Refused: the game is over, or that pass would end it.
        """
        if self._over:
            raise _Refused("illegal move: the game is over")
        if self._state.current_player() == player:
            return []
        passing = self._size**2
        if self._state.child(passing).is_terminal():
            raise _Refused(
                "illegal move: between two moves of one colour the other passes, which would end "
                "this game"
            )
        return [passing]

    @property
    def _over(self) -> bool:
        return bool(self._state.is_terminal())

    def _play(self, words: Sequence[str]) -> str:
        if len(words) < 2:
            raise _Refused("invalid color or coordinate")
        player, action = _player(words), action_of(words[1], self._size)
        if player is None or action is None:
            raise _Refused("invalid color or coordinate")
        added = self._turn_to(player)
        position = self._state.child(added[0]) if added else self._state
        if action not in position.legal_actions():
            raise _Refused("illegal move")
        self._apply([*added, action])
        return ""

    def _genmove(self, words: Sequence[str]) -> str:
        if self._passed_twice():
            return "PASS"  # programs ask on to find out whether the engine agrees
        added = self._chosen(words)
        self._apply(added)
        return vertex_of(added[-1], self._size)

    def _reg_genmove(self, words: Sequence[str]) -> str:
        return "PASS" if self._passed_twice() else vertex_of(self._chosen(words)[-1], self._size)

    def _passed_twice(self) -> bool:
        return self._over and self._state.history()[-2:] == [self._size**2] * 2

    def _chosen(self, words: Sequence[str]) -> list[int]:
        """Return the player's move for a colour, after the pass that it takes."""
        player = _player(words)
        if player is None:
            raise _Refused("invalid color")
        added = self._turn_to(player)
        position = self._state.child(added[0]) if added else self._state
        return [*added, self._player.choose(position)]

    def _undo(self, words: Sequence[str]) -> str:
        if not self._moves:
            raise _Refused("cannot undo")
        self._replay(self._moves[:-1])
        return ""

    def _fixed_handicap(self, words: Sequence[str]) -> str:
        points = handicap_points(self._size, _number(words, 0))
        return self._place([vertex_of(point, self._size) for point in points])

    def _set_free_handicap(self, words: Sequence[str]) -> str:
        return self._place(words)

    def _place(self, vertices: Sequence[str]) -> str:
        """Place black's stones, between which white passes, and return them."""
        if self._moves:
            raise _Refused("board not empty")
        points = [action_of(vertex, self._size) for vertex in vertices]
        passing = self._size**2
        if len(points) < 2 or len(set(points)) < len(points) or {None, passing} & set(points):
            raise _Refused("bad vertex list")
        try:
            for point in points:
                self._play(["b", vertex_of(point or 0, self._size)])
        except _Refused:
            self._begin()  # the board was empty
            raise
        return " ".join(vertex.upper() for vertex in vertices)

    def _final_score(self, words: Sequence[str]) -> str:
        repeated = self._over and not self._passed_twice() and not any(self._state.returns())
        lead = 0.0 if repeated else black_lead(self._state)
        return f"{'B' if lead > 0 else 'W'}+{abs(lead):g}" if lead else "0"

    def _known_command(self, words: Sequence[str]) -> str:
        return "true" if words and words[0] in self._commands else "false"

    def _quit(self, words: Sequence[str]) -> str:
        self.ended = True
        return ""

    def _ignore(self, words: Sequence[str]) -> str:
        """Accept what has no effect: an agent's time follows from its simulations."""
        return ""


def _number(words: Sequence[str], index: int) -> int:
    """Return a word as a whole number.

    Raises:
        _Refused: it is none.
    """
    if len(words) <= index or not re.fullmatch(r"\d{1,4}", words[index], re.ASCII):
        raise _Refused("not an integer")
    return int(words[index])


def _player(words: Sequence[str]) -> int | None:
    """Return OpenSpiel's number of the colour that the first word names; None if it names none."""
    word = words[0].lower() if words else ""
    return {"b": 0, "w": 1, COLOURS[0]: 0, COLOURS[1]: 1}.get(word)


def board_text(state: Any) -> str:
    """Return the board as text, without empty lines, which would end a response."""
    lines = str(state).splitlines()[1:]
    return "\n".join(line for line in lines if line.strip())


def black_lead(state: Any) -> float:
    """Return by how many points black leads, komi included, by Tromp and Taylor's area scoring.

    A point counts for a colour if it has a stone of it, or if it is empty and no stone of the other
    colour can be reached from it over empty points (https://tromp.github.io/go.html).
    """
    rows = GO.rows(str(state))
    colour = {(y, x): c for y, row in enumerate(rows) for x, c in enumerate(row)}
    lead = sum((c == "X") - (c == "O") for c in colour.values())
    left = {point for point, c in colour.items() if c == "+"}
    while left:
        region, reached, edge = 0, set[str](), [left.pop()]
        while edge:
            y, x = edge.pop()
            region += 1
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
                elif colour.get(near, "+") != "+":
                    reached.add(colour[near])
        lead += region * ((reached == {"X"}) - (reached == {"O"}))
    return lead - float(state.get_game().get_parameters()["komi"])


def handicap_points(size: int, stones: int) -> list[int]:
    """Return the points of a fixed handicap, in the order of GTP's specification.

    Raises:
        _Refused: a board of this size has no fixed handicap of so many stones.
    """
    near = 3 if size > 12 else 2  # from the side
    far, middle = size - 1 - near, size // 2
    most = 9 if size % 2 and size > _SMALLEST_HANDICAP else 4
    if not 2 <= stones <= most or size < _SMALLEST_HANDICAP:
        raise _Refused("invalid number of stones")
    corners = [(near, near), (far, far), (far, near), (near, far)]  # row, column
    sides = [(middle, near), (middle, far), (near, middle), (far, middle)]
    found = corners[:stones] + sides[: max(0, stones // 2 * 2 - 4)]
    if stones > 4 and stones % 2:
        found.append((middle, middle))
    return [row * size + column for row, column in found]
