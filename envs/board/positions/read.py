"""Read the position of any board game from OpenSpiel's state.

Most positions are read from the text that OpenSpiel (https://arxiv.org/abs/1908.09453) prints of
them. A game without a reader, or of a size that its reader does not support, has no cells: it is
played by its text and the labels of its moves.
"""

import re
from collections.abc import Callable
from functools import partial

import pyspiel

from ludus.envs.board.positions.chess import read_chess
from ludus.envs.board.positions.chinese_checkers import read_chinese_checkers
from ludus.envs.board.positions.connect_four import read_connect_four
from ludus.envs.board.positions.cursor_go import read_cursor_go
from ludus.envs.board.positions.dots_and_boxes import read_dots_and_boxes
from ludus.envs.board.positions.grid import GRIDS
from ludus.envs.board.positions.hive import read_hive
from ludus.envs.board.positions.layouts import extent
from ludus.envs.board.positions.mancala import read_mancala, read_oware
from ludus.envs.board.positions.nim import read_nim
from ludus.envs.board.positions.nine_mens_morris import read_nine_mens_morris
from ludus.envs.board.positions.position import Board, BoardPosition, Cells, Layout, LegalMove
from ludus.envs.board.positions.quoridor import read_quoridor
from ludus.envs.board.positions.shogi import read_shogi
from ludus.envs.board.positions.twixt import read_twixt
from ludus.envs.board.positions.ultimate_tic_tac_toe import read_ultimate_tic_tac_toe
from ludus.envs.board.positions.xiangqi import read_xiangqi
from ludus.envs.board.spiel import side_of

_READERS: dict[str, Callable[[pyspiel.State, str], Board | None]] = {
    **GRIDS,
    "connect_four": read_connect_four,
    "ultimate_tic_tac_toe": read_ultimate_tic_tac_toe,
    "cursor_go": read_cursor_go,
    "chess": read_chess,
    "antichess": partial(read_chess, promotions=4),
    "crazyhouse": read_chess,
    "shogi": read_shogi,
    "xiangqi": read_xiangqi,
    "mancala": read_mancala,
    "oware": read_oware,
    "nim": read_nim,
    "nine_mens_morris": read_nine_mens_morris,
    "chinese_checkers": read_chinese_checkers,
    "dots_and_boxes": read_dots_and_boxes,
    "quoridor": read_quoridor,
    "twixt": read_twixt,
    "hive": read_hive,
}
# games in which OpenSpiel cannot name an action that has been played
_PAST_MOVES_WITHOUT_LABEL = {"chess", "antichess", "crazyhouse", "shogi", "xiangqi", "amazons"}


def read_position(state: pyspiel.State) -> BoardPosition:
    """Return the position of a state of any game in `ludus.envs.board.spiel.names()`.

    Args:
        state: is not changed.
    """
    # In colours, both players have the same letter. Replace one, then drop the colours.
    text = str(state).replace("\x1b[1;33m@", "O")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    name = _name(state)
    reader = _READERS.get(name)
    board = reader(state, text) if reader else None
    layout = board.layout if board else Layout(())
    width, height = layout.size if layout.size[0] else extent(layout.cells)
    player = state.current_player()
    return BoardPosition(
        width=width,
        height=height,
        cells=layout.cells,
        lines=layout.lines,
        pieces=tuple(board.pieces) if board else (),
        moves=_legal_moves(state, board),
        last=_last_move(state, board) if board else (),
        mover=-1 if state.is_terminal() or player < 0 else side_of(state, player),
        note=board.note if board else "",
        text=text,
        style=layout.style,
    )


def _name(state: pyspiel.State) -> str:
    return str(state.get_game().get_type().short_name)


def _legal_moves(state: pyspiel.State, board: Board | None) -> tuple[LegalMove, ...]:
    if state.is_terminal():
        return ()
    player = state.current_player()
    moves = []
    for action in state.legal_actions():
        label = state.action_to_string(player, action)
        cells: Cells = ()
        area: Cells = ()
        if board and player >= 0:
            cells = board.cells_of_move(action, side_of(state, player), label)
        if board and board.area_of_move:
            area = board.area_of_move(action, label)
        if not area and len(cells) == 1:
            area = cells
        moves.append(LegalMove(action, label, cells, area))
    return tuple(moves)


def _last_move(state: pyspiel.State, board: Board) -> Cells:
    """Return the cells of the move that led to a state."""
    if not isinstance(board.last, str):
        return board.last
    history = state.full_history()
    if not history or history[-1].player < 0:
        return ()
    name, player, action = _name(state), history[-1].player, history[-1].action
    label = ""
    if board.last == "replay":
        # Name the action in the position where it was legal: afterwards its name differs.
        before = state.get_game().new_initial_state()
        for step in history[:-1]:
            before.apply_action(step.action)
        label = before.action_to_string(player, action)
    elif name not in _PAST_MOVES_WITHOUT_LABEL:
        label = state.action_to_string(player, action)
    return board.cells_of_move(action, side_of(state, player), label)
