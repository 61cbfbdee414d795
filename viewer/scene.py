"""A board position as plain data: cells, pieces and moves that a page draws and a person clicks.

Most positions are read from the text that OpenSpiel (https://arxiv.org/abs/1908.09453) prints of
them. A game that has no reader in `_READERS`, or a size that its reader does not know, has no cells
and is played by its text and the labels of its moves.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import Literal

import pyspiel

Shape = Literal["square", "hex", "point"]
Style = Literal["wood", "chess", "columns", "plain"]
Spots = tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """A place where a piece may lie."""

    x: float
    y: float
    """of its centre, in cells from the left and from the top"""
    shape: Shape
    """hex: 1 wide, a corner upwards; point: an intersection of lines"""
    dark: bool
    """of two colours of cells"""
    label: str
    """as a person names it, "e4" or "column 3, row 2\""""


@dataclass(frozen=True)
class Piece:
    """What lies on a cell; no cell has two."""

    cell: int
    player: int
    """0 who begins the game (white in chess), 1 the other, -1 neither"""
    glyph: str
    """"" for a plain stone, else a letter, a filled chess figure, or a number of seeds"""


@dataclass(frozen=True)
class Line:
    """A line under the pieces: of the board, or a player's link between two stones."""

    start: int
    end: int
    """cells"""
    player: int
    """as of a piece; -1 of the board"""


@dataclass(frozen=True)
class MoveOn:
    """A legal move."""

    action: int
    label: str
    """OpenSpiel's name for it"""
    cells: Spots
    """to click in this order: one to place, two to go from and to, none without a place (a pass);
    several moves may have the same"""
    area: Spots
    """where one click is enough: all cells that stand for it, as a whole column; else `cells`
    itself or none"""


@dataclass(frozen=True)
class Scene:
    """A position; `dataclasses.asdict` makes it JSON."""

    width: float
    height: float
    """in cells"""
    cells: tuple[Cell, ...]
    """() where only the text is known"""
    lines: tuple[Line, ...]
    pieces: tuple[Piece, ...]
    moves: tuple[MoveOn, ...]
    """() at the end of a game"""
    last: Spots
    """cells of the last move; () where it has none"""
    mover: int
    """who moves, as of a piece; -1 at the end"""
    note: str
    """what the board does not show: pieces in hand, walls left"""
    text: str
    """OpenSpiel's own picture, for a screen reader and where there are no cells"""
    style: Style


@dataclass(frozen=True, eq=False)
class _Ground:
    """A board without its pieces, hashed as one thing."""

    cells: tuple[Cell, ...]
    lines: tuple[Line, ...] = ()
    style: Style = "plain"
    size: tuple[float, float] = (0, 0)  # taken from the cells where it is 0


Find = Callable[[int, int, str], Spots]  # the cells of an action of a player under its label
Stones = Mapping[str, tuple[int, str]]  # player and glyph of a letter


@dataclass(frozen=True)
class _Board:
    """A position without its moves."""

    ground: _Ground
    pieces: Iterable[Piece]
    find: Find
    area: Callable[[int, str], Spots] | None = None  # of an action under its label
    last: Spots | Literal["find", "replay"] = "find"  # replay: a label says it only beforehand
    note: str = ""


def scene(state: pyspiel.State) -> Scene:
    """The position of a state of any game in `ludus.envs.board.spiel.names()`.

    Args:
        state: it is left as it is.
    """
    text = str(state).replace("\x1b[1;33m@", "O")  # in colours, both players have the same letter
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    short = state.get_game().get_type().short_name
    reader = _READERS.get(short)
    board = reader(state, text) if reader else None
    ground = board.ground if board else _Ground(())
    width, height = ground.size if ground.size[0] else _extent(ground.cells)
    white_begins = short in _WHITE_IS_PLAYER_1

    def side(player: int) -> int:
        return player if player < 0 else player ^ white_begins

    moves = []
    player = state.current_player()
    over = state.is_terminal()
    for action in [] if over else state.legal_actions():
        label = state.action_to_string(player, action)
        spots = board.find(action, side(player), label) if board and player >= 0 else ()
        area = board.area(action, label) if board and board.area else ()
        moves.append(MoveOn(action, label, spots, area or (spots if len(spots) == 1 else ())))
    return Scene(
        width=width,
        height=height,
        cells=ground.cells,
        lines=ground.lines,
        pieces=tuple(board.pieces) if board else (),
        moves=tuple(moves),
        last=_last(state, board, side) if board else (),
        mover=-1 if over or player < 0 else side(player),
        note=board.note if board else "",
        text=text,
        style=ground.style,
    )


def _last(state: pyspiel.State, board: _Board, side: Callable[[int], int]) -> Spots:
    if not isinstance(board.last, str):
        return board.last
    history = state.full_history()
    if not history or history[-1].player < 0:
        return ()
    player, action = history[-1].player, history[-1].action
    if board.last == "replay":
        state = state.get_game().new_initial_state()
        for step in history[:-1]:
            state.apply_action(step.action)
    elif state.get_game().get_type().short_name in _BY_NUMBER:
        return board.find(action, side(player), "")
    return board.find(action, side(player), state.action_to_string(player, action))


# -- boards -----------------------------------------------------------------------------------


def _extent(cells: tuple[Cell, ...]) -> tuple[float, float]:
    if not cells:
        return 0, 0
    half = 3**-0.5 if cells[0].shape == "hex" else 0.5
    return max(c.x for c in cells) + 0.5, round(max(c.y for c in cells) + half, 4)


def _hex(column: float, row: int, label: str) -> Cell:
    return Cell(round(column + 0.5, 4), round(row * 0.75**0.5 + 3**-0.5, 4), "hex", False, label)


def _file(column: int) -> str:
    return chr(97 + column) if column < 26 else f"{_file(column // 26 - 1)}{_file(column % 26)}"


@lru_cache(256)
def _ground(shape: Shape, widths: Spots, naming: str, style: Style) -> _Ground:
    """Rows of so many cells each, from the top; hexagons slant, and half of Havannah the other way.

    `naming` is "up" (a1 at the bottom), "go" (the same without i), "down" (a1 at the top), or
    "numbers".
    """
    height, cells = len(widths), list[Cell]()
    side = (height - 1) // 2 if widths[0] < max(widths) else None  # of Havannah's hexagon
    for row, width in enumerate(widths):
        for column in range(width):
            file = column if side is None else column + max(0, row - side)
            letter = _file(file + (naming == "go" and file > 7))
            label = f"{letter}{height - row if naming in ('up', 'go') else row + 1}"
            if naming == "numbers":
                label = f"column {column + 1}, row {row + 1}"
            if shape == "hex":
                x = file + row / 2 if side is None else file + (side - row) / 2
                cells.append(_hex(x, row, label))
            else:
                dark = style == "chess" and (row + column) % 2 == 1
                cells.append(Cell(column + 0.5, row + 0.5, shape, dark, label))
    lines = list[Line]()
    if shape == "point":
        width = widths[0]
        lines += [Line(row * width, row * width + width - 1, -1) for row in range(height)]
        lines += [Line(c, (height - 1) * width + c, -1) for c in range(width)]
    return _Ground(tuple(cells), tuple(lines), style)


@lru_cache(256)
def _named(ground: _Ground) -> dict[str, int]:
    """Cells by name; the tenth row and those after it also by the character OpenSpiel counts to."""
    names = {cell.label: i for i, cell in enumerate(ground.cells)}
    for name, i in list(names.items()):
        number = re.search(r"\d+$", name)
        if number and 10 <= int(number[0]) < 43:
            names[name[: number.start()] + chr(48 + int(number[0]))] = i
    return names


_NAME = re.compile(r"[a-z](?:\d+|[:-Z])")


def _by_name(ground: _Ground) -> Find:
    """Cells that a label names; none where one of them is unknown."""
    names = _named(ground)

    def find(action: int, player: int, label: str) -> Spots:
        found = _NAME.findall(label)
        return tuple(names[name] for name in found) if all(n in names for n in found) else ()

    return find


def _by_number(ground: _Ground) -> Find:
    """The cell that has the number of the action; none for a pass."""
    count = len(ground.cells)
    return lambda action, player, label: (action,) if action < count else ()


def _stones(first: str, second: str, neither: str = "") -> dict[str, tuple[int, str]]:
    sides = ((first, 0), (second, 1), (neither, -1))
    return {letter: (player, "") for letters, player in sides for letter in letters}


def _letters(letters: str, glyphs: str = "") -> Stones:
    """Capitals of who begins, small letters of the other."""
    pairs = list(zip(letters, glyphs or letters, strict=True))
    return {a: (0, g) for a, g in pairs} | {a.lower(): (1, g) for a, g in pairs}


def _pieces(symbols: Iterable[str], stones: Stones) -> tuple[Piece, ...]:
    return tuple(Piece(i, *stones[s]) for i, s in enumerate(symbols) if s in stones)


@dataclass(frozen=True)
class _Grid:
    """A game whose text is one letter a cell."""

    stones: Stones
    empty: str = "."
    shape: Shape = "square"
    naming: str = "up"
    style: Style = "plain"
    find: Callable[[_Ground], Find] = _by_name
    label: str = r"[^a-z%s]{0,2}"  # of a row, before its cells

    def rows(self, text: str) -> list[str]:
        """The letters of each row."""
        symbols = re.escape("".join(self.stones) + self.empty)
        label = self.label.replace("%s", symbols)
        row = re.compile(rf"(?:{label}?)([{symbols}]+)\d{{0,2}}[a-z^]?")
        found = (row.fullmatch(re.sub(r"[][ ]", "", line)) for line in text.split("\n"))
        return [match[1] for match in found if match]

    def __call__(self, state: pyspiel.State, text: str) -> _Board | None:
        rows = self.rows(text)
        widths = tuple(map(len, rows))
        if not rows or (self.shape != "hex" and len(set(widths)) > 1):
            return None
        ground = _ground(self.shape, widths, self.naming, self.style)
        return _Board(ground, _pieces("".join(rows), self.stones), self.find(ground))


_XO = _Grid(_stones("x", "o"), naming="numbers", find=_by_number)
_GO = _Grid(_stones("X", "O"), "+", "point", "go", "wood")
_ROUND = _Grid(_stones("O", "@"), shape="hex", naming="down")
_AMAZONS = _Grid(_stones("X", "O", "#"), naming="numbers", style="chess", find=_by_number)


def _connect_four(state: pyspiel.State, text: str) -> _Board | None:
    rows = _XO.rows(text)
    if not rows or len(set(map(len, rows))) > 1:
        return None
    height, width = len(rows), len(rows[0])
    free = [sum(row[column] == "." for row in rows) for column in range(width)]
    history = state.history()
    return _Board(
        _ground("square", (width,) * height, "numbers", "columns"),
        _pieces("".join(rows), _XO.stones),
        lambda action, player, label: ((free[action] - 1) * width + action,),
        lambda action, label: tuple(row * width + action for row in range(height)),
        (free[history[-1]] * width + history[-1],) if history else (),
    )


@lru_cache(1)
def _boards() -> _Ground:
    cells = []
    for r, c in product(range(9), repeat=2):
        board = r // 3 * 3 + c // 3
        label = f"board {board}, column {c % 3 + 1}, row {r % 3 + 1}"
        cells.append(Cell(c + 0.5, r + 0.5, "square", board % 2 == 1, label))
    return _Ground(tuple(cells))


def _ultimate(state: pyspiel.State, text: str) -> _Board | None:
    def inside(board: int) -> Spots:
        top = board // 3 * 27 + board % 3 * 3
        return tuple(top + r * 9 + c for r in range(3) for c in range(3))

    def find(action: int, player: int, label: str) -> Spots:
        board = int(label.partition("board ")[2][0])
        return (inside(board)[4 if label.startswith("Choose") else action],)

    def area(action: int, label: str) -> Spots:
        return inside(action) if label.startswith("Choose") else ()

    forced = re.search(r"Forced board: .*", text)
    pieces = _pieces("".join(_XO.rows(text)), _XO.stones)
    return _Board(_boards(), pieces, find, area, "replay", forced[0] if forced else "")


def _cursor_go(state: pyspiel.State, text: str) -> _Board | None:
    board, at = _GO(state, text), re.search(r"Cursor: ([a-z]\d+)", text)
    if not board or not at:  # the end of a game shows no cursor
        return board and replace(board, last=())
    size = int(len(board.ground.cells) ** 0.5)
    cell = _named(board.ground)[at[1]]
    steps = {"Up": -size, "Down": size, "Left": -1, "Right": 1, "Place Stone": 0}

    def find(action: int, player: int, label: str) -> Spots:
        return (cell + steps[label],) if label in steps else ()

    return replace(board, find=find, last=(), note=at[0])


# -- chess and its relatives ------------------------------------------------------------------

_CHESS = _letters("KQRBNPEHAC", "♚♛♜♝♞♟♛♞♝♜")  # crazyhouse: E, H, A and C were pawns
_SHOGI = _letters("KRBGSNLP")
_KNIGHT = ((-2, -1), (-2, 1), (-1, -2), (-1, 2), (2, -1), (2, 1), (1, -2), (1, 2))
_LINES = ((0, 1), (1, 0), (1, 1), (1, -1))


@lru_cache(4)
def _chess_steps(promotions: int) -> tuple[tuple[int, int], ...]:
    """Files and ranks that each kind of move goes, as its mover sees it."""
    steps = [(step, 1) for _ in range(promotions) for step in (0, 1, -1)]
    far = [*range(-7, 0), *range(1, 8)]
    return (*steps, *((x * n, y * n) for x, y in _LINES for n in far), *_KNIGHT)


def _fen(board: str, stones: Stones) -> list[Piece]:
    pieces, cell = list[Piece](), 0
    for plus, symbol in re.findall(r"(\+?)(\d|[A-Za-z])", board):
        if symbol.isdigit():
            cell += int(symbol)
        else:
            player, glyph = stones[symbol]
            pieces.append(Piece(cell, player, plus + glyph))
            cell += 1
    return pieces


def _chess(state: pyspiel.State, text: str, promotions: int = 3) -> _Board:
    ground = _ground("square", (8,) * 8, "up", "chess")
    position, _, hand = text.split()[0].partition("[")
    pieces = _fen(position, _CHESS)
    steps = _chess_steps(promotions)
    castling = 64 * len(steps)
    kings = {piece.player: piece.cell for piece in pieces if piece.glyph == "♚"}

    def find(action: int, player: int, label: str) -> Spots:
        if action >= castling + 2:  # a drop
            square = (action - castling - 2) % 64
            return ((7 - square // 8) * 8 + square % 8,)
        if action >= castling:  # to the left, or to the right
            to = (58, 62)[action - castling] - 56 * player
            return (kings[player] if label else 60 - 56 * player, to)
        square, step = divmod(action, len(steps))
        file, rank = square // 8, square % 8
        ends = ((file, rank), (file + steps[step][0], rank + steps[step][1]))
        return tuple((rank if player else 7 - rank) * 8 + file for file, rank in ends)

    hand = hand.rstrip("]")
    return _Board(ground, pieces, find, note=f"in hand: {hand}" if hand else "")


@lru_cache(1)
def _shogi_ground() -> _Ground:
    places = product(range(9), repeat=2)
    cells = (Cell(c + 0.5, r + 0.5, "square", False, f"{9 - c}{_file(r)}") for r, c in places)
    return _Ground(tuple(cells), style="wood")


def _shogi(state: pyspiel.State, text: str) -> _Board:
    position, _, hand = text.split()[:3]
    ground = _shogi_ground()

    def find(action: int, player: int, label: str) -> Spots:
        squares = divmod(action // 2, 81) if action < 13122 else ((action - 13122) % 81,)
        return tuple((8 - square // 9) * 9 + square % 9 for square in squares)

    pieces = _fen(position, _SHOGI)
    return _Board(ground, pieces, find, note="" if hand == "-" else f"in hand: {hand}")


@lru_cache(1)
def _xiangqi_ground() -> _Ground:
    ground = _ground("point", (9,) * 10, "numbers", "wood")
    rows = [line for line in ground.lines if line.end - line.start == 8]
    files = [Line(c, c + (81 if c in (0, 8) else 36), -1) for c in range(9)]
    files += [Line(c + 45, c + 81, -1) for c in range(1, 8)]  # a river between
    palaces = [Line(top + a, top + b, -1) for top in (0, 63) for a, b in ((3, 23), (5, 21))]
    return _Ground(ground.cells, (*rows, *files, *palaces), "wood")


def _xiangqi(state: pyspiel.State, text: str) -> _Board:
    stones = _letters("GAEHRCS")

    def find(action: int, player: int, label: str) -> Spots:
        return divmod(action, 90)

    return _Board(_xiangqi_ground(), _pieces(re.sub(r"\s", "", text)[:90], stones), find)


# -- other boards -----------------------------------------------------------------------------


@lru_cache(16)
def _pits(houses: int) -> _Ground:
    """The left store, houses below from the left, the right store, houses above from the right."""
    below = [Cell(i + 1.5, 1.5, "square", False, f"house {i + 1} below") for i in range(houses)]
    above = [
        Cell(houses - i + 0.5, 0.5, "square", False, f"house {i + 1} above") for i in range(houses)
    ]
    left = Cell(0.5, 1, "square", True, "left store")
    right = Cell(houses + 1.5, 1, "square", True, "right store")
    return _Ground((left, *below, right, *above), style="wood", size=(houses + 2, 2))


def _seeds(left: int, below: list[int], right: int, above: list[int], find: Find) -> _Board:
    seeds = (left, *below, right, *above)
    players = (1, *[0] * len(below), 0, *[1] * len(above))
    pieces = [Piece(i, p, str(n)) for i, (p, n) in enumerate(zip(players, seeds, strict=True)) if n]
    return _Board(_pits(len(below)), pieces, find)


def _mancala(state: pyspiel.State, text: str) -> _Board:
    above, (left, right), below = (
        [int(n) for n in re.findall(r"\d+", line)] for line in text.split("\n")[:3]
    )
    return _seeds(left, below, right, above[::-1], lambda action, player, label: (action,))


def _oware(state: pyspiel.State, text: str) -> _Board:
    above, below = (
        [int(n) for n in line.split()] for line in re.findall(r"^[ \d]+$", text, re.MULTILINE)
    )
    left, right = map(int, re.findall(r"score = (\d+)", text))
    start = (1, len(below) + 2)
    return _seeds(left, below, right, above[::-1], lambda a, player, label: (start[player] + a,))


def _nim(state: pyspiel.State, text: str) -> _Board:
    full, now = (
        [int(n) for n in str(s).partition(":")[2].split()]
        for s in (state.get_game().new_initial_state(), state)
    )
    tallest = max(full)
    cells, places = list[Cell](), dict[tuple[int, int], int]()  # pile and level, from 1
    for pile, count in enumerate(full, 1):
        for level in range(1, count + 1):
            places[pile, level] = len(cells)
            label = f"pile {pile}, number {level}"
            cells.append(Cell(pile - 0.5, tallest - level + 0.5, "square", False, label))

    def find(action: int, player: int, label: str) -> Spots:
        pile, take = map(int, re.findall(r"\d+", label))
        return (places[pile, now[pile - 1] - take + 1],)

    pieces = [Piece(i, -1, "") for (pile, level), i in places.items() if level <= now[pile - 1]]
    return _Board(_Ground(tuple(cells)), pieces, find, last=())


@lru_cache(1)
def _mill_ground() -> _Ground:
    cells = list[Cell]()
    for row, columns in enumerate(("036", "135", "234", "012456", "234", "135", "036")):
        for column in map(int, columns):
            label = f"point {len(cells)}"
            cells.append(Cell(column + 0.5, row + 0.5, "point", False, label))
    rows = "0 2 3 5 6 8 9 11 12 14 15 17 18 20 21 23"
    files = "0 21 3 18 6 15 1 7 16 22 8 17 5 20 2 23"
    ends = [int(end) for end in f"{rows} {files}".split()]
    lines = [Line(a, b, -1) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    return _Ground(tuple(cells), tuple(lines), "wood")


def _nine_mens_morris(state: pyspiel.State, text: str) -> _Board:
    board, _, rest = text.partition("\n\n")
    left = re.search(r"Men to deploy: .*", rest)
    return _Board(
        _mill_ground(),
        _pieces(re.findall(r"[.WB]", board), _stones("W", "B")),
        lambda action, player, label: tuple(map(int, re.findall(r"\d+", label))),
        note=left[0] if left else "",
    )


@lru_cache(4)
def _star(text: str) -> _Ground:
    places = [
        (r, c) for r, line in enumerate(text.split("\n")) for c, s in enumerate(line) if s > " "
    ]
    return _Ground(tuple(_hex(c / 2, r, f"point {i}") for i, (r, c) in enumerate(places)))


def _chinese_checkers(state: pyspiel.State, text: str) -> _Board:
    board = text.partition("Player")[0].rstrip()
    return _Board(
        _star(re.sub(r"\d", ".", board)),
        _pieces(re.findall(r"\S", board), _stones("1", "2")),
        lambda action, player, label: tuple(map(int, re.findall(r"\d+", label))),
        last="replay",
    )


@lru_cache(32)
def _between(height: int, width: int, names: tuple[str, str, str, str]) -> _Ground:
    """Fields with places between them: names of even, odd and mixed rows and columns."""
    cells = []
    for row in range(height):
        for column in range(width):
            kind = row % 2 * 2 + column % 2
            label = f"{names[kind]}, column {column // 2 + 1}, row {row // 2 + 1}"
            cells.append(Cell(column + 0.5, row + 0.5, "square", kind == 0, label))
    return _Ground(tuple(cells))


def _dots_and_boxes(state: pyspiel.State, text: str) -> _Board:
    rows = [line[::2] for line in text.rstrip().split("\n")]
    width = len(rows[0])
    pieces = []
    for row, line in enumerate(rows):
        for column, symbol in enumerate(line):
            if symbol in "12":
                pieces.append(Piece(row * width + column, int(symbol) - 1, symbol))
            elif symbol in "│─" and (row + column) % 2:
                pieces.append(Piece(row * width + column, -1, ""))

    def find(action: int, player: int, label: str) -> Spots:
        kind, row, column = re.findall(r"\((.),(\d+),(\d+)\)", label)[0]
        return ((int(row) * 2 + (kind == "v")) * width + int(column) * 2 + (kind == "h"),)

    names = ("dot", "line to the right", "line downwards", "box")
    return _Board(_between(len(rows), width, names), pieces, find)


def _quoridor(state: pyspiel.State, text: str) -> _Board:
    lines = text.split("\n")
    left = lines[0].partition("walls")[2]
    size = 2 * int(re.findall(r"\d+", lines[0])[0]) - 1
    symbols = "".join(
        line.ljust(2 * size + 3)[3 : 2 * size + 3 : 2] for line in lines[2 : size + 2]
    )
    stones = {"0": (0, ""), "@": (1, "")} | dict.fromkeys("|-+", (-1, ""))

    def find(action: int, player: int, label: str) -> Spots:
        letter, row, wall = re.findall(r"^([a-z])(\d+)([hv]?)$", label)[0]
        cell = (int(row) - 1) * 2 * size + (ord(letter) - 97) * 2
        return (cell + {"": 0, "v": 1, "h": size}[wall],)

    ground = _between(size, size, ("field", "wall on the right", "wall below", "corner"))
    return _Board(ground, _pieces(symbols, stones), find, last="replay", note=f"walls left{left}")


@lru_cache(16)
def _peg_ground(size: int) -> _Ground:
    edges = (0, size - 1)
    places = [p for p in product(range(size), repeat=2) if p[0] not in edges or p[1] not in edges]
    cells = (Cell(c + 0.5, r + 0.5, "point", False, f"{_file(c)}{r + 1}") for r, c in places)
    return _Ground(tuple(cells), style="wood")


def _twixt(state: pyspiel.State, text: str) -> _Board:
    rows = [line for line in text.split("\n") if re.match(r"\s*\d", line)]
    size = len(rows)
    ground = _peg_ground(size)
    names = _named(ground)
    symbols = [row[5 + 3 * c] for row in rows for c in range(size) if row[5 + 3 * c] != " "]
    planes = state.observation_tensor(0)
    links, wide = list[Line](), size - 2
    for player in (0, 1):  # the second player's planes are turned to the right
        for kind, (right, down) in enumerate(((1, -2), (2, -1), (2, 1), (1, 2)), 1):
            plane = (player * 6 + kind) * size * wide
            for at in range(size * wide):
                if planes[plane + at]:
                    r, c = at // wide, at % wide + 1
                    if player:
                        r, c = c, size - 1 - r
                    start, end = f"{_file(c)}{r + 1}", f"{_file(c + right)}{r + 1 + down}"
                    links.append(Line(names[start], names[end], player))
    with_links = _Ground(ground.cells, tuple(links), ground.style)
    return _Board(with_links, _pieces(symbols, _stones("x", "o")), _by_name(ground))


_HIVE = {"|/": (1, -1), "|-": (1, 0), "|\\": (0, 1), "/|": (-1, 1), "-|": (-1, 0), "\\|": (0, -1)}


def _hive(state: pyspiel.State, text: str) -> _Board:
    where, piles = dict[str, tuple[int, int]](), dict[tuple[int, int], list[str]]()

    def target(move: str) -> tuple[int, int]:
        if " " not in move:
            return 0, 0
        sides = re.fullmatch(r"([/\\-]?)(\w+)([/\\-]?)", move.split()[1])
        assert sides, move
        q, r = where[sides[2]]
        step = _HIVE.get(f"{sides[1]}|{sides[3]}", (0, 0))
        return q + step[0], r + step[1]

    last = list[tuple[int, int]]()
    for move in filter(None, text.split(";")[3:]):
        last = []
        if move == "pass":
            continue
        piece, to = move.split()[0], target(move)
        if piece in where:
            piles[where[piece]].remove(piece)
            last.append(where[piece])
        where[piece] = to
        piles.setdefault(to, []).append(piece)
        last.append(to)
    around = {(q + x, r + y) for q, r in where.values() for x, y in _HIVE.values()}
    places = sorted(around | set(where.values()) | {(0, 0)}, key=lambda place: place[::-1])
    index = {place: i for i, place in enumerate(places)}
    top, left = min(r for _, r in places), min(q + r / 2 for q, r in places)
    cells = []
    for q, r in places:
        pile = piles.get((q, r), [])
        cells.append(_hex(q + r / 2 - left, r - top, " on ".join(pile[::-1]) or f"free {q}, {r}"))
    pieces = [
        Piece(index[place], "wb".index(pile[-1][0]), pile[-1][1])
        for place, pile in piles.items()
        if pile
    ]

    def find(action: int, player: int, label: str) -> Spots:
        if label == "pass":
            return ()
        piece = label.split()[0]
        start = (index[where[piece]],) if piece in where else ()
        return (*start, index[target(label)])

    shown = tuple(index[place] for place in last if place in index)
    return _Board(_Ground(tuple(cells)), pieces, find, last=shown)


_WHITE_IS_PLAYER_1 = {"chess", "antichess", "crazyhouse"}
_BY_NUMBER = {*_WHITE_IS_PLAYER_1, "shogi", "xiangqi", "amazons"}  # an old move has no label
_READERS: dict[str, Callable[[pyspiel.State, str], _Board | None]] = {
    "tic_tac_toe": _XO,
    "mnk": _XO,
    "connect_four": _connect_four,
    "ultimate_tic_tac_toe": _ultimate,
    "othello": _Grid(_stones("x", "o"), "-", naming="down", find=_by_number),
    "go": _GO,
    "cursor_go": _cursor_go,
    "gomoku": _Grid(_stones("b", "w"), ".", "point", "numbers", "wood", _by_number, r"\d*"),
    "pentago": _Grid(_stones("O", "@"), naming="down", label=r"[svz^]?\d"),
    "hex": _Grid(_stones("xyzX", "opqO"), shape="hex", naming="down", find=_by_number),
    "havannah": _ROUND,
    "y": _ROUND,
    "amazons": _AMAZONS,
    "breakthrough": _Grid(_stones("b", "w"), style="chess"),
    "clobber": _Grid(_stones("o", "x"), style="chess"),
    "lines_of_action": _Grid(_stones("x", "o"), style="chess"),
    "checkers": _Grid(
        _stones("o", "+") | {"8": (0, "K"), "*": (1, "K")}, style="chess", label=r"\d{1,2}"
    ),
    "chess": _chess,
    "antichess": partial(_chess, promotions=4),
    "crazyhouse": _chess,
    "shogi": _shogi,
    "xiangqi": _xiangqi,
    "mancala": _mancala,
    "oware": _oware,
    "nim": _nim,
    "nine_mens_morris": _nine_mens_morris,
    "chinese_checkers": _chinese_checkers,
    "dots_and_boxes": _dots_and_boxes,
    "quoridor": _quoridor,
    "twixt": _twixt,
    "hive": _hive,
}
