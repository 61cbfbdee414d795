"""Positions as cells, pieces and moves, against OpenSpiel's planes and against moves replayed."""

import dataclasses
import json

import numpy as np
import pyspiel
import pytest

from ludus.envs.board import spiel
from ludus.envs.board.positions.position import Cell, Piece
from ludus.envs.board.positions.read import read_position

SIZES = [
    "go(board_size=9)",
    "go(board_size=2)",
    "hex(num_cols=4,num_rows=6,swap=True)",
    "hex(board_size=4,string_rep=explicit)",
    "havannah(board_size=4,swap=True,ansi_color_output=True)",
    "y(board_size=5,ansi_color_output=True)",
    "breakthrough(rows=12,columns=3)",
    "breakthrough(rows=5,columns=2)",
    "checkers(rows=10,columns=10)",
    "clobber(rows=11,columns=3)",
    "connect_four(rows=5,columns=9)",
    "gomoku(size=7)",
    "mnk(m=4,n=6)",
    "amazons(board_size=6)",
    "quoridor(board_size=11)",
    "dots_and_boxes(num_rows=2,num_cols=4)",
    "oware(num_houses_per_player=4)",
    "nim(pile_sizes=2;12;3)",
]
# a click puts a stone of who moves there, and no stone ever goes or moves
PLACING = {"tic_tac_toe", "connect_four", "gomoku", "mnk", "hex", "y", "twixt"}
# a move takes a piece from the first cell to the second; what stood there or is jumped goes
MOVING = {
    "antichess",
    "breakthrough",
    "checkers",
    "chess",
    "chinese_checkers",
    "clobber",
    "lines_of_action",
    "xiangqi",
}


def _short(name):
    return name.partition("(")[0]


def _games(name, games=1, most=120):
    """Random games: each as positions, their scenes and the moves made between them."""
    game = spiel.load(name)
    for seed in range(games):
        generator, state = np.random.default_rng(seed), game.new_initial_state()
        states, moves = [state.clone()], []
        while not state.is_terminal() and len(moves) < most:
            made = read_position(state).moves
            moves.append(made[generator.integers(len(made))])
            state.apply_action(moves[-1].action)
            states.append(state.clone())
        yield states, [read_position(state) for state in states], moves


def _stones(seen):
    return {piece.cell: piece.player for piece in seen.pieces}


def _play(name, actions, fen=None):
    game = pyspiel.load_game(name)
    state = game.new_initial_state() if fen is None else game.new_initial_state(fen)
    for action in actions:
        state.apply_action(action)
    return state


def _named(seen, *names):
    labels = [cell.label for cell in seen.cells]
    return tuple(labels.index(name) for name in names)


def _pictures(seen):
    return {seen.cells[piece.cell].label: (piece.player, piece.glyph) for piece in seen.pieces}


@pytest.mark.parametrize("name", [*spiel.names(), *SIZES])
def test_every_position_of_random_games_is_whole(name):
    for states, scenes, _ in _games(name, 1, 80):
        for state, seen in zip(states, scenes, strict=True):
            actions = [move.action for move in seen.moves]
            assert sorted(actions) == sorted(set(state.legal_actions()))
            assert seen.cells
            assert (seen.mover == -1) == state.is_terminal() == (not seen.moves)
            spots = {p.cell for p in seen.pieces}
            assert len(spots) == len(seen.pieces)
            for move in seen.moves:
                assert move.label == state.action_to_string(move.action)
                assert move.cells or move.label.lower().split()[-1] in ("pass", "swap")
                spots |= {*move.cells, *move.area}
            spots |= {end for line in seen.lines for end in (line.start, line.end)} | {*seen.last}
            assert spots <= set(range(len(seen.cells)))
            for cell in seen.cells:
                assert 0.5 <= cell.x <= seen.width - 0.5
                assert 0.5 <= cell.y <= seen.height - 0.5
            places = np.array([(cell.x, cell.y) for cell in seen.cells[:60]])
            apart = np.linalg.norm(places[:, None] - places, axis=2)
            assert (apart + np.eye(len(places)) > 0.999).all()
            assert len({cell.label for cell in seen.cells}) == len(seen.cells)
            assert "\x1b" not in seen.text
        for seen in scenes[::40]:
            data = json.loads(json.dumps(dataclasses.asdict(seen)))
            assert [Cell(**cell) for cell in data["cells"]] == [*seen.cells]
            assert [Piece(**piece) for piece in data["pieces"]] == [*seen.pieces]
            assert [move["cells"] for move in data["moves"]] == [[*m.cells] for m in seen.moves]


@pytest.mark.parametrize("name", [*spiel.names(), *SIZES])
def test_a_move_is_the_last_one_of_the_next_position(name):
    if _short(name) in ("nim", "cursor_go", "hive"):  # hive's cells are counted anew each time
        pytest.skip("its last move does not have the cells of the move")
    for _, scenes, moves in _games(name, 1):
        assert scenes[0].last == ()
        for seen, move in zip(scenes[1:], moves, strict=True):
            assert seen.last == move.cells


@pytest.mark.parametrize("name", [n for n in [*spiel.names(), *SIZES] if _short(n) in PLACING])
def test_where_stones_are_placed_the_board_is_all_moves(name):
    for _, scenes, moves in _games(name):
        stones, swapped = {}, False
        for before, seen, move in zip(scenes, scenes[1:], moves, strict=False):
            swapped |= move.label == "swap"
            for cell in move.cells:
                assert cell not in stones
                assert cell in move.area
                stones[cell] = before.mover
            assert swapped or _stones(seen) == stones


@pytest.mark.parametrize("name", [n for n in [*spiel.names(), *SIZES] if _short(n) in MOVING])
def test_where_pieces_move_they_leave_one_cell_for_another(name):
    for _, scenes, moves in _games(name):
        for before, after, move in zip(scenes, scenes[1:], moves, strict=False):
            for start, _ in (other.cells for other in before.moves if other.cells):
                assert _stones(before)[start] == before.mover
            if not move.cells or "O-O" in move.label:
                continue
            stones, (start, end) = _stones(before), move.cells
            stones[end] = stones.pop(start)
            taken = [cell for cell in stones if cell not in _stones(after)]
            for cell in taken:  # en passant, or jumped over
                assert stones.pop(cell) == 1 - before.mover
            assert len(taken) <= 1
            assert _stones(after) == stones


def _go(state):
    rows = state.to_dict()["board_grid"]
    grid = np.array([[next(iter(point.values())) for point in row] for row in rows])
    return grid[::-1] == "B", grid[::-1] == "W"


def _planes(*order):
    def read(state):
        shape = state.get_game().observation_tensor_shape()
        tensor = np.reshape(state.observation_tensor(0), shape)
        return [sum(tensor[plane] for plane in planes) for planes in order]

    return read


def _chess(state):
    def colour(row, column):
        return state.board().at(pyspiel.chess.Square(column, 7 - row)).color

    return [
        np.array([[colour(r, c) == who for c in range(8)] for r in range(8)])
        for who in (pyspiel.chess.Color.WHITE, pyspiel.chess.Color.BLACK)
    ]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tic_tac_toe", _planes([2], [1])),
        ("connect_four", _planes([0], [1])),
        ("othello", _planes([1], [2])),
        ("breakthrough", _planes([0], [1])),
        ("checkers", _planes([0, 1], [2, 3])),
        ("go(board_size=5)", _go),
        ("go", _go),
        ("chess", _chess),
    ],
)
def test_pieces_are_those_that_openspiel_shows_otherwise(name, read):
    for states, scenes, _ in _games(name):
        for state, seen in zip(states, scenes, strict=True):
            first, second = read(state)
            stones = np.full(first.size, -1)
            for cell, player in _stones(seen).items():
                stones[cell] = player
            if name == "connect_four":  # its planes begin with the lowest row
                first, second = first[::-1], second[::-1]
            assert (stones == np.where(first, 0, np.where(second, 1, -1)).ravel()).all()


@pytest.mark.parametrize(
    "name",
    [
        "go(board_size=9)",
        "othello",
        "shogi",
        "crazyhouse",
        "havannah",
        "havannah(board_size=4,swap=True,ansi_color_output=True)",
    ],
)
def test_a_click_on_one_cell_puts_a_piece_of_the_mover_there(name):
    for _, scenes, moves in _games(name):
        for before, after, move in zip(scenes, scenes[1:], moves, strict=False):
            if move.cells:
                assert _stones(after)[move.cells[-1]] == before.mover
                assert len(move.cells) == 1 or move.cells[0] not in _stones(after)


def test_chess_cells_are_those_of_openspiel_s_own_notation():
    fens = [None, "r3k2r/1P4p1/8/3n4/3N4/8/1p4P1/R3K2R w KQkq - 0 1"]
    fens.append(fens[1].replace(" w ", " b "))
    for fen in fens:
        state = _play("chess", [], fen)
        seen = read_position(state)
        for move in seen.moves:
            lan = pyspiel.chess.action_to_move(move.action, state.board()).to_lan()
            assert move.cells == _named(seen, lan[:2], lan[2:4])


@pytest.mark.parametrize("name", ["antichess", "crazyhouse"])
def test_cells_of_its_relatives_are_where_the_notation_goes(name):
    for _, scenes, _ in _games(name):
        for seen in scenes:
            for move in seen.moves:
                end = move.label.rstrip("+#").partition("=")[0][-2:]
                if "O-O" not in move.label:
                    assert seen.cells[move.cells[-1]].label == end


def test_castling_is_a_move_of_the_king():
    seen = read_position(_play("chess", [], "r3k2r/8/8/8/8/8/8/R3K2R b KQkq - 0 1"))
    cells = {move.label: move.cells for move in seen.moves}
    assert cells["O-O"] == _named(seen, "e8", "g8")
    assert cells["O-O-O"] == _named(seen, "e8", "c8")
    assert seen.mover == 1
    state = _play("chess", [], "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1")
    state.apply_action(next(m.action for m in read_position(state).moves if m.label == "O-O-O"))
    after = read_position(state)
    assert after.last == _named(after, "e1", "c1")
    assert _pictures(after)["c1"] == (0, "♚")
    assert _pictures(after)["d1"] == (0, "♜")
    assert "a1" not in _pictures(after)


def test_four_promotions_share_their_cells():
    state = _play("chess", [], "4k3/1P6/8/8/8/8/8/4K3 w - - 0 1")
    seen = read_position(state)
    both = _named(seen, "b7", "b8")
    same = {move.label.rstrip("+"): move.action for move in seen.moves if move.cells == both}
    assert sorted(same) == ["b8=B", "b8=N", "b8=Q", "b8=R"]
    state.apply_action(same["b8=N"])
    assert _pictures(read_position(state)) == {"e8": (1, "♚"), "e1": (0, "♚"), "b8": (0, "♞")}


def test_tic_tac_toe_by_hand():
    seen = read_position(_play("tic_tac_toe", [4, 2]))  # the centre, then the right upper corner
    assert _pictures(seen) == {"column 2, row 2": (0, ""), "column 3, row 1": (1, "")}
    assert (seen.cells[2].x, seen.cells[2].y, seen.width, seen.height) == (2.5, 0.5, 3, 3)
    assert (seen.mover, seen.last) == (0, (2,))
    assert [move.cells for move in seen.moves] == [(c,) for c in (0, 1, 3, 5, 6, 7, 8)]


def test_a_click_anywhere_in_a_column_drops_a_stone():
    seen = read_position(_play("connect_four", [3, 3]))
    assert _pictures(seen) == {"column 4, row 6": (0, ""), "column 4, row 5": (1, "")}
    assert seen.last == _named(seen, "column 4, row 5")
    move = next(move for move in seen.moves if move.action == 3)
    assert move.cells == _named(seen, "column 4, row 4")
    assert [seen.cells[cell].label for cell in move.area] == [
        f"column 4, row {row}" for row in range(1, 7)
    ]


def test_a_pass_has_no_cells():
    for states, scenes, _ in _games("othello", 40):
        for state, seen in zip(states, scenes, strict=True):
            if state.legal_actions() == [64]:
                assert [(m.label, m.cells, m.area) for m in seen.moves] == [("pass", (), ())]
                return
    pytest.fail("no game had a pass")


def test_a_king_of_checkers_has_a_letter():
    kings = 0
    for states, scenes, _ in _games("checkers", 10):
        for state, seen in zip(states, scenes, strict=True):
            planes = np.reshape(state.observation_tensor(0), (5, -1))
            shown = {(p.player, p.cell) for p in seen.pieces if p.glyph == "K"}
            theirs = [
                {(who, int(c)) for c in np.flatnonzero(planes[k])} for who, k in ((0, 1), (1, 3))
            ]
            assert shown == theirs[0] | theirs[1]
            kings += len(shown)
    assert kings


@pytest.mark.parametrize("name", ["mancala", "oware"])
def test_all_seeds_are_on_the_board_and_a_house_played_is_empty(name):
    for _, scenes, moves in _games(name):
        for before, after, move in zip(scenes, scenes[1:], moves, strict=False):
            assert sum(int(piece.glyph) for piece in after.pieces) == 48
            assert _stones(before)[move.cells[0]] == before.mover
            seeds = {piece.cell: int(piece.glyph) for piece in before.pieces}
            if seeds[move.cells[0]] < 10:
                assert move.cells[0] not in _stones(after)


def test_a_click_in_nim_takes_that_and_all_above():
    seen = read_position(_play("nim", []))
    for move in seen.moves:
        pile, take = (int(part.split(":")[1]) for part in move.label.rstrip(";").split(","))
        left = seen.cells[move.cells[0]].label
        assert left == f"pile {pile}, number {2 * pile - 1 - take + 1}"


def test_links_of_twixt_join_pegs_of_one_player():
    links = set()
    for _, scenes, _ in _games("twixt"):
        for seen in scenes:
            stones = _stones(seen)
            for line in seen.lines:
                assert stones[line.start] == stones[line.end] == line.player
                a, b = seen.cells[line.start], seen.cells[line.end]
                assert {abs(a.x - b.x), abs(a.y - b.y)} == {1, 2}
                links.add(line.player)
    assert links == {0, 1}


def test_hive_s_pieces_stand_where_their_moves_say():
    for _, scenes, moves in _games("hive"):
        for before, after, move in zip(scenes, scenes[1:], moves, strict=False):
            if move.label == "pass":
                assert after.last == ()
                continue
            piece = move.label.split()[0]
            assert after.cells[after.last[-1]].label.startswith(piece)
            assert before.cells[move.cells[-1]].label.partition(" ")[0] != piece
            if len(move.cells) == 2:
                assert before.cells[move.cells[0]].label.startswith(piece)


@pytest.mark.parametrize("name", ["dots_and_boxes", "quoridor", "nine_mens_morris", "amazons"])
def test_a_click_changes_what_lies_on_the_cell(name):
    for _, scenes, moves in _games(name):
        for before, after, move in zip(scenes, scenes[1:], moves, strict=False):
            if name != "amazons" or "From" not in move.label:
                for cell in move.cells:
                    assert _stones(before).get(cell) != _stones(after).get(cell)


def test_a_game_without_a_reader_has_its_text_and_its_moves():
    seen = read_position(_play("gomoku(size=3,connect=3,dims=3)", [0]))
    assert (seen.cells, seen.pieces, seen.last, seen.width) == ((), (), (), 0)
    assert len(seen.moves) == 26
    assert seen.moves[0].label == "0,0,1"
    assert seen.text.strip()
