"""Chess, antichess and crazyhouse, read from FEN; a move's cells are decoded from its action."""

from functools import lru_cache

import pyspiel

from ludus.envs.board.positions.layouts import lettered_stones, read_fen, rows_layout
from ludus.envs.board.positions.position import Board, Cells

# E, H, A and C of crazyhouse are promoted pawns
_STONES = lettered_stones("KQRBNPEHAC", "♚♛♜♝♞♟♛♞♝♜")
_KNIGHT = ((-2, -1), (-2, 1), (-1, -2), (-1, 2), (2, -1), (2, 1), (1, -2), (1, 2))
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


@lru_cache(4)
def _steps(promotions: int) -> tuple[tuple[int, int], ...]:
    """Return files and ranks that each kind of move goes, as seen by the player to move."""
    steps = [(step, 1) for _ in range(promotions) for step in (0, 1, -1)]
    distances = [*range(-7, 0), *range(1, 8)]
    return (*steps, *((x * n, y * n) for x, y in _DIRECTIONS for n in distances), *_KNIGHT)


def read_chess(state: pyspiel.State, text: str, promotions: int = 3) -> Board:
    """Read a position; the note lists the pieces in hand.

    Args:
        state: of the game.
        text: its FEN.
        promotions: how many underpromotions the game has.
    """
    position, _, hand = text.split()[0].partition("[")
    pieces = read_fen(position, _STONES)
    steps = _steps(promotions)
    kings = {piece.player: piece.cell for piece in pieces if piece.glyph == "♚"}
    # actions are 64 squares x steps, then two castlings, then drops of pieces in hand
    castling = 64 * len(steps)

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        if action >= castling + 2:
            square = (action - castling - 2) % 64
            return ((7 - square // 8) * 8 + square % 8,)
        if action >= castling:  # to the left, or to the right
            to = (58, 62)[action - castling] - 56 * player
            # a past move has no label, and its king has left the square
            return (kings[player] if label else 60 - 56 * player, to)
        square, step = divmod(action, len(steps))
        file, rank = square // 8, square % 8
        ends = ((file, rank), (file + steps[step][0], rank + steps[step][1]))
        return tuple((rank if player else 7 - rank) * 8 + file for file, rank in ends)

    hand = hand.rstrip("]")
    return Board(
        layout=rows_layout("square", (8,) * 8, "up", "chess"),
        pieces=pieces,
        cells_of_move=cells_of_move,
        note=f"in hand: {hand}" if hand else "",
    )
