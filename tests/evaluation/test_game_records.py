"""Games as text for other programs."""

import re

import pytest

from ludus.envs.board import spiel
from ludus.evaluation.game_records import game_records
from ludus.evaluation.match import FixedSide, Match, play_match


def _match(game, games):
    sides = FixedSide("random", game, games, 1), FixedSide("random", game, games, 2)
    return play_match(sides, game, games, seed=0)


def test_chess_is_pgn_of_the_moves_that_were_made():
    match = _match("chess", 3)
    texts = game_records("chess", ["a", 'b "x"'], match).split("[Event ")[1:]
    assert len(texts) == 3
    for number, (text, score) in enumerate(zip(texts, match.scores, strict=True)):
        tags = dict(re.findall(r'\[(\w+) "(.*)"\]', text))
        assert (tags["White"], tags["Black"]) == [("a", r"b \"x\""), (r"b \"x\"", "a")][number % 2]
        white = score if number % 2 == 0 else 1 - score
        assert tags["Result"] == {1: "1-0", 0.5: "1/2-1/2", 0: "0-1"}[white]
        words = text.split("\n\n")[1].split()
        assert max(map(len, text.splitlines())) <= 79
        assert words[-1] == tags["Result"]
        assert words[:3:3] == ["1."]
        state = spiel.load("chess").new_initial_state()
        for word in words[:-1]:
            if not re.fullmatch(r"\d+\.", word):
                state.apply_action(state.string_to_action(word))
        assert state.history() == match.games[number]


def test_go_is_sgf_by_hand():
    game = "go(board_size=5,komi=6.5)"
    state = spiel.load(game).new_initial_state()
    names = ["B a1", "W e5", "B c3", "W PASS", "B a2"]
    for name in names:
        state.apply_action(state.string_to_action(name))
    match = Match(returns=[1.0], games=[state.history()])
    text = game_records(game, [r"x]\\y", "z"], match)
    assert text == (
        "(;FF[4]GM[1]CA[UTF-8]AP[Ludus]SZ[5]KM[6.5]RU[Chinese]RE[B+]PB[x\\]\\\\\\\\y]PW[z]\n"
        ";B[ae];W[ea];B[cc];W[];B[ad])\n"
    )


def test_the_columns_of_go_leave_out_i():
    game = "go(board_size=9)"
    state = spiel.load(game).new_initial_state()
    state.apply_action(state.string_to_action("B j1"))
    text = game_records(game, ["a", "b"], Match(returns=[0.0], games=[state.history()]))
    assert ";B[ii]" in text
    assert "RE[0]" in text


@pytest.mark.parametrize("games", [1, 2])
def test_other_games_are_lines_of_openings(games, tmp_path):
    from ludus.evaluation.openings import read_openings

    match = _match("connect_four", games)
    text = game_records("connect_four", ["a", "b"], match)
    lines = text.splitlines()
    assert [[int(word) for word in line.partition("#")[0].split()] for line in lines] == match.games
    assert lines[0].endswith(
        f"# a against b: {['0-1', '1/2-1/2', '1-0'][int(2 * match.scores[0])]}"
    )
    assert games == 1 or "# b against a: " in lines[1]
    path = tmp_path / "openings.txt"
    path.write_text("".join(f"{line.partition('  #')[0][:-4]}\n" for line in lines))
    assert read_openings("connect_four", path) == [moves[:-2] for moves in match.games]
