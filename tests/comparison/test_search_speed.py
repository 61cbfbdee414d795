import json

import pytest

from ludus.cli.main import main
from ludus.comparison import search_speed


def test_the_shares_of_a_search_are_of_its_time(monkeypatch, capsys):
    monkeypatch.setattr(search_speed, "BATCHES", (1, 3))
    options = ("--game", "tic_tac_toe", "--simulations", "3", "--rounds", "1", "--json")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--only", "search", *options])
    assert not ended.value.code
    out, err = capsys.readouterr()
    rates = {rate["name"]: rate for rate in json.loads(out)["rates"]}
    theirs = {f"OpenSpiel's Python MCTS, {how}" for how in ("our network", "random games")}
    ours = {"ludus, 1 games in play", "ludus, 1 games", "ludus, 3 games"}
    assert set(rates) == ours | theirs
    for name, rate in rates.items():
        shares = [rate[f"{part}_share"] for part in ("network", "game", "tree")]
        assert rate["games_per_second"] > 0
        # a game of tic-tac-toe has 5 to 9 moves
        moves = rate["simulations_per_second"] / 3
        assert 5 <= moves / rate["games_per_second"] <= 9
        if name in theirs:
            assert shares == [None] * 3
        else:
            assert sum(shares) == pytest.approx(1)
            assert min(shares) > 0
    assert "round 1 of 1" in err
