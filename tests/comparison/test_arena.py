"""Round robins and ratings."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ludus.cli.main import main
from ludus.comparison import plots
from ludus.comparison.arena import (
    Contender,
    Played,
    contender,
    elo,
    expand,
    rate,
    round_robin,
    until_decided,
)
from ludus.comparison.arena_report import short_names
from ludus.comparison.sprt import SequentialTest, expected_score
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions
from ludus.evaluation.match import FixedSide, Match
from ludus.training.run import TrainOptions
from ludus.training.train import load, start_session


def test_a_rating_is_the_log_of_the_odds():
    """Three to one is 191 points: 400 log10 of the odds, with one draw more on each side."""
    points = np.array([[0, 750.0], [250, 0]])
    rating = elo(points)
    assert rating[0] - rating[1] == pytest.approx(400 * np.log10(750.5 / 250.5), abs=0.01)
    assert rating.mean() == pytest.approx(0, abs=1e-9)


def test_ratings_explain_the_points_they_come_from():
    """At the maximum the expected points of each contender are those it has."""
    generator = np.random.default_rng(0)
    games = generator.integers(10, 40, (5, 5))
    games = np.triu(games, 1) + np.triu(games, 1).T
    share = generator.uniform(0.1, 0.9, (5, 5))
    points = np.triu(games * share, 1)
    points += np.tril(games - points.T, -1)
    rating = elo(points)
    expected = (games + 1 - np.eye(5)) / (1 + 10 ** ((rating - rating[:, None]) / 400))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(expected.sum(1), (points + 0.5 * (1 - np.eye(5))).sum(1), rtol=1e-5)


def test_who_won_every_game_is_finite_and_first():
    rating = elo(np.array([[0, 10.0, 10], [0, 0, 10], [0, 0, 0]]))
    assert np.isfinite(rating).all()
    assert rating[0] > rating[1] > rating[2]


def test_a_round_robin_counts_every_game_once():
    names = ("random", "greedy", "minimax")
    everyone = [contender(name, "tic_tac_toe", epsilon=0.0) for name in names]
    played = list(round_robin(everyone, "tic_tac_toe", 20, 0))
    assert [(p.first, p.second, len(p.match.returns)) for p in played] == [
        (0, 1, 20),
        (0, 2, 20),
        (1, 2, 20),
    ]
    standings, points = rate(everyone, played, 0)
    assert [s.wins + s.draws + s.losses for s in standings] == [40, 40, 40]
    assert (points + points.T).tolist() == [[0, 20, 20], [20, 0, 20], [20, 20, 0]]
    by_name = {s.name: s for s in standings}
    assert by_name["minimax"].losses == 0
    assert standings[-1].name == "random"
    for s in standings:
        assert s.low <= s.elo <= s.high
        assert s.milliseconds > 0


def test_the_interval_contains_the_rating_also_of_who_wins_nearly_every_game():
    """Of a win in 19 of 20 games by the odds; 20 games each."""
    both = [Contender(name, lambda games, seed: NotImplemented) for name in ("a", "b")]
    generator, contained = np.random.default_rng(0), 0
    truth = 200 * np.log10(19)
    for repeat in range(60):
        won = np.where(generator.random(20) < 0.95, 1.0, -1.0)
        standings, _ = rate(both, [Played(0, 1, Match(won.tolist()))], repeat)
        (first,) = [s for s in standings if s.name == "a"]
        assert first.low < first.elo < first.high
        contained += first.low <= truth <= first.high
    assert 54 <= contained <= 60


def test_the_sides_are_even_whoever_is_named_first():
    """Two equal players: the one who begins tic-tac-toe wins more often, and both begin alike."""
    alike = [
        Contender(name, lambda games, seed: FixedSide("random", "tic_tac_toe", games, seed))
        for name in ("a", "b")
    ]
    standings, _ = rate(alike, list(round_robin(alike, "tic_tac_toe", 400, 0)), 0)
    assert abs(standings[0].elo - standings[1].elo) < 60


def test_the_likelihood_ratio_by_hand():
    """Two pairs of a win and a draw, two drawn: mean 0.625, variance 1/64, but for the prior."""
    test = SequentialTest(0, 100)
    assert (test.log_ratio, test.accepted) == (0.0, None)
    test.add(np.array([1, 0.5] * 2 + [0.5, 0.5] * 2))
    assert test.pairs.tolist() == [0, 0, 2, 2, 0]
    weights = np.array([0.2, 0.2, 2.2, 2.2, 0.2]) / 5
    mean = float(weights @ np.arange(5) / 4)
    variance = float(weights @ (np.arange(5) / 4 - mean) ** 2)
    s1 = 1 / (1 + 10**-0.25)
    assert expected_score(100) == pytest.approx(s1)
    expected = 4 * (s1 - 0.5) * (2 * mean - 0.5 - s1) / (2 * variance)
    assert test.log_ratio == pytest.approx(expected)
    assert test.accepted is None
    assert test.bound == pytest.approx(np.log(19))
    test.add(np.array([1, 0.5] * 40))
    assert test.accepted == 100


@pytest.mark.parametrize(("truth", "other"), [(0, 30), (30, 0)])
@pytest.mark.parametrize(("drawn", "opening"), [(0.0, 0.0), (0.3, 0.2)])
def test_a_sequential_test_is_wrong_as_rarely_as_it_says(truth, other, drawn, opening):
    """100 tests of players whose difference is known, with openings that favour one side."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        test = SequentialTest(0, 30)
        while test.accepted is None:
            score = np.tile([expected_score(truth) + opening, expected_score(truth) - opening], 32)
            luck = generator.random(64)
            won, not_lost = luck < score - drawn / 2, luck < score + drawn / 2
            test.add((won + not_lost.astype(np.float64)) / 2)
        wrong += test.accepted == other
    assert wrong <= 11  # 5% are asked for; more than 11 of 100 would be one case in 200


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high"), [(82, 112), (112, 142)])
def test_a_sequential_test_of_real_players_is_wrong_as_rarely(low, high):
    """mcts:20 is stronger than mcts:10 by 112 Elo: 110 to 113 in 102,400 games of tic-tac-toe."""
    players = [contender(name, "tic_tac_toe", epsilon=0.0) for name in ("mcts:20", "mcts:10")]
    wrong = 0
    for number in range(100):
        test = SequentialTest(low, high)
        for _ in until_decided(players, "tic_tac_toe", 20_000, 10_000 * number, test, lambda _: []):
            pass
        wrong += test.accepted != 112
    assert wrong <= 11  # as above


def test_a_sequential_test_ends_as_soon_as_it_is_decided():
    players = [contender(name, "tic_tac_toe", epsilon=0.0) for name in ("greedy", "random")]
    test = SequentialTest(0, 30)
    played = list(until_decided(players, "tic_tac_toe", 20_000, 0, test, lambda number: [[number]]))
    games = [len(each.match.returns) for each in played]
    assert test.accepted == 30
    assert set(games) == {64}
    assert 2 * test.pairs.sum() == sum(games) < 1_000
    assert {moves[0] for moves in played[0].match.games} == {0}  # the opening of match 0
    undecided = SequentialTest(0, 1)
    played = list(until_decided(players[1:] * 2, "tic_tac_toe", 70, 0, undecided, lambda _: []))
    assert [len(each.match.returns) for each in played] == [64, 6]
    assert undecided.accepted is None


def _trained(tmp_path, game):
    options = TrainOptions(steps=64, num_envs=4, eval_episodes=2)
    session = start_session("ppo", game, options, EnvOptions(), None, tmp_path, quiet=True)
    session.run_to_end()
    return session.run.path


def test_an_arena_of_a_run_and_players_on_the_command_line(tmp_path, capsys):
    run, out = _trained(tmp_path, "tic_tac_toe"), tmp_path / "arena.json"
    words = ["arena", str(run), "random", "mcts:20", "--game", "tic_tac_toe", "--games", "6"]
    saved = tmp_path / "games.txt"
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(out), "--save", str(saved)])
    assert len(saved.read_text().splitlines()) == 18
    assert not ended.value.code
    shown = capsys.readouterr()
    assert "mcts:20" in shown.out
    assert shown.err.count("won") == 3
    kept = json.loads(out.read_text())
    assert len(kept["standings"]) == 3
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert [s["elo"] for s in json.loads(capsys.readouterr().out)["standings"]] == [
        s["elo"] for s in kept["standings"]
    ]


def test_moves_that_keep_the_value_are_counted_on_the_command_line(capsys):
    pytest.importorskip("bitbully")
    words = ["arena", "greedy", "perfect", "--games", "4", "--epsilon", "0", "--openings", "20"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--perfect", "--json"])
    assert not ended.value.code
    results = json.loads(capsys.readouterr().out)
    perfect, greedy = (results["perfect"][name] for name in ("perfect", "greedy"))
    assert perfect[0]["plies"] == "all"
    assert perfect[0]["kept"] == perfect[0]["chances"]
    assert greedy[0]["moves"] == sum(part["moves"] for part in greedy[1:])
    assert [part["plies"] for part in greedy[1:3]] == ["1 to 6", "7 to 12"]
    with pytest.raises(SystemExit):
        main([*words, "--perfect"])
    shown = capsys.readouterr().out
    assert "Moves that keep the value of the game" in shown
    assert "100.0%" in shown


def test_a_sequential_test_on_the_command_line(capsys):
    words = ["arena", "greedy", "random", "--game", "tic_tac_toe", "--sprt", "0", "30"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--openings", "1"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "greedy is stronger than random by 30 Elo rather than by 0: " in shown
    with pytest.raises(SystemExit):
        main([*words, "--sprt", "0", "0.1", "--games", "10", "--json"])
    test = json.loads(capsys.readouterr().out)["sprt"]
    assert (test["accepted"], sum(test["pairs"]), test["high"]) == (None, 5, 0.1)
    with pytest.raises(SystemExit):
        main([*words, "--sprt", "0", "0.1", "--games", "10"])
    assert "not decided after 10 games" in capsys.readouterr().out


def test_a_sequential_test_goes_through_a_file_of_openings(tmp_path, capsys):
    path, saved = tmp_path / "openings.txt", tmp_path / "games.txt"
    every = [
        f"{a} {b} {c}" for a in range(9) for b in range(9) for c in range(9) if len({a, b, c}) == 3
    ]
    path.write_text("\n".join(every[:70]))
    words = ["random", "greedy", "--game", "tic_tac_toe", "--sprt", "0", "0.1", "--games", "140"]
    with pytest.raises(SystemExit):
        main(["arena", *words, "--openings", str(path), "--save", str(saved)])
    begun = [" ".join(line.split()[:3]) for line in saved.read_text().splitlines()]
    assert sorted(begun) == sorted(every[:70] * 2), "each once from both sides"


def test_an_evaluation_on_the_command_line_counts_games(tmp_path, capsys):
    run = _trained(tmp_path, "tic_tac_toe")
    for more, named in ([], "random"), (["--opponent", "minimax"], "minimax"):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(run), "--episodes", "9", *more])
        assert not ended.value.code
        said = capsys.readouterr().out
        assert f"9 games against {named}: " in said
        won, lost = int(said.split(" won")[0].split()[-1]), int(said.split(" lost")[0].split()[-1])
        assert won + lost <= 9
        assert named == "random" or won == 0
        with pytest.raises(SystemExit):
            main(["evaluate", str(run), "--episodes", "9", "--json", *more])
        scores = json.loads(capsys.readouterr().out)
        assert [scores[each] for each in ("won", "drawn", "lost")] == [won, 9 - won - lost, lost]


def test_a_run_of_another_game_is_refused(tmp_path):
    run = _trained(tmp_path, "tic_tac_toe")
    with pytest.raises(
        RunError, match=r"was trained on tic_tac_toe; it does not play connect_four"
    ):
        contender(str(run), "connect_four", epsilon=0.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["random"], "an arena needs two contenders or more"),
        (["random", "greedy", "--perfect"], "let it make none at random by --epsilon 0"),
        (
            ["random", "greedy", "--perfect", "--epsilon", "0", "--game", "othello"],
            "perfect play is known of connect_four only; the game is othello",
        ),
        (
            ["random", "greedy", "--sprt", "0", "30", "--epsilon", "0"],
            "games that differ: add --op",
        ),
        (["random", "greedy", "minimax", "--sprt", "0", "30"], "there are 3 contenders"),
        (
            ["random", "greedy", "--sprt", "30", "0"],
            "--sprt is 30 0; the first must be the smaller",
        ),
        (["random", "greedy", "--sprt", "0", "30", "--games", "7"], "so it must be even"),
        (["random", "greedy", "--openings", "no.txt"], "no.txt cannot be read"),
        (["random", "random"], "a contender is named twice"),
        (["nowhere@all"], "no such run"),
        (["random", "nobody"], "there is no opponent nobody"),
        (
            ["random", "greedy", "--game", "backgammon"],
            "backgammon is not supported: it has chance",
        ),
        (["random", "greedy", "--games", "0"], "games is 0; it must be 1 or more"),
    ],
)
def test_what_cannot_be_played_is_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["arena", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ludus: ")
    assert said in error
    assert error.count("\n") == 1


def _with_stages(folder, seed=0):
    """A run that has kept many stages."""
    options = TrainOptions(
        steps=100, seed=seed, eval_episodes=0, checkpoint_seconds=0.0, num_envs=8, video_every=0
    )
    session = start_session("ppo", "tic_tac_toe", options, EnvOptions(), None, folder, quiet=True)
    session.run_to_end()
    return session.run


def test_the_stages_of_a_run_are_a_curve(tmp_path, capsys):
    run, other = _with_stages(tmp_path), _with_stages(tmp_path, 1)
    stages = list(run.stages())
    assert stages[0] == 0
    assert stages == sorted(stages)
    assert len(stages) > 4
    path, out, report = str(run.path), tmp_path / "arena.json", tmp_path / "report"
    assert expand([f"{path}@all", "random", path]) == [
        *(f"{path}@{steps}" for steps in stages),
        "random",
        path,
    ]
    words = ["arena", f"{path}@all", "greedy", f"{other.path}@0", "--game", "tic_tac_toe"]
    words += ["--games", "2", "--out", str(out), "--report", str(report)]
    for _ in range(2):  # the second curve replaces the first
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
    shown = capsys.readouterr()
    assert f"{path} over its training:" in shown.out
    assert f"{run.path / 'arena'} has the curve arena/elo for TensorBoard" in shown.err
    results = json.loads(out.read_text())
    (curve,) = results["curves"].values()
    rated = {s["name"]: s for s in results["standings"]}
    assert len(rated) == len(stages) + 2
    assert [point["env_steps"] for point in curve] == stages
    for point in curve:
        standing = rated[f"{path}@{point['env_steps']}"]
        assert (point["elo"], point["low"]) == (standing["elo"], standing["low"])
    log = EventAccumulator(str(run.path / "arena"))
    log.Reload()
    for tag, name in (("arena/elo", "elo"), ("arena/elo_low", "low"), ("arena/elo_high", "high")):
        points = [(event.step, event.value) for event in log.Scalars(tag)]
        assert points == [(p["env_steps"], pytest.approx(p[name], rel=1e-5)) for p in curve]
    page = (report / "arena.html").read_text()
    assert (report / "ratings.svg").is_file()
    assert f"{run.path.name}@{stages[1]}</th>" in page
    assert page.count("data:image/png") == 2
    assert not (other.path / "arena").exists(), "one stage is no curve"


def test_a_curve_is_not_written_through_a_link(tmp_path, capsys):
    run = _with_stages(tmp_path)
    (run.path / "arena").symlink_to(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["arena", f"{run.path}@all", "--game", "tic_tac_toe", "--games", "1"])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "is a link, which is not followed" in shown.err
    assert "over its training" in shown.out, "the results are shown first"


def test_a_packed_run_gets_no_curve(tmp_path, capsys):
    path = _with_stages(tmp_path).path
    record = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(record | {"packed": True}))
    before = sorted(path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["arena", f"{path}@all", "--game", "tic_tac_toe", "--games", "1"])
    assert not ended.value.code
    shown = capsys.readouterr()
    assert "over its training" in shown.out
    assert f"{path} is packed and gets no curve; --out and --report have it" in shown.err
    assert sorted(path.rglob("*")) == before


def test_the_figure_of_a_rating_shows_every_stage():
    points = np.array([[0, -100, -150, -50], [1_000, 0, -40, 50], [2_000, 80.0, 30, 130]])
    figure = plots.ratings({"a": points, "b": points[:2]}, {"mcts:100": 200.0}, "a game", None)
    (axis,) = figure.axes
    assert [line.get_xydata().tolist() for line in axis.lines[:2]] == [
        points[:, :2].tolist(),
        points[:2, :2].tolist(),
    ]
    assert [text.get_text() for text in axis.texts] == ["mcts:100"]
    assert len(figure.legends) == 1


def test_a_run_has_a_short_name_where_that_is_its_own():
    names = ["runs/a/1", "runs/a/1@5", "runs/b/2@7", "runs/c/2", "gtp:x/y@3", "mcts:10", "3@4"]
    names += ["runs/a/random", "runs/b/greedy@9", "other/c/2", "runs/c/random2"]
    assert short_names(names) == {
        "runs/a/1": "a/1",
        "runs/a/1@5": "a/1@5",
        "runs/b/2@7": "b/2@7",
        "runs/c/2": "runs/c/2",
        "gtp:x/y@3": "gtp:x/y@3",
        "mcts:10": "mcts:10",
        "3@4": "3@4",
        "runs/a/random": "runs/a/random",
        "runs/b/greedy@9": "runs/b/greedy@9",
        "other/c/2": "other/c/2",
        "runs/c/random2": "c/random2",
    }
    one_agent = ["runs/a/1", "runs/a/2@5", "mcts:10"]
    assert short_names(one_agent) == dict(zip(one_agent, ["1", "2@5", "mcts:10"], strict=True))


def test_earlier_checkpoints_play_by_their_steps(tmp_path):
    options = TrainOptions(
        steps=400, eval_episodes=0, checkpoint_seconds=0.0, keep_checkpoints=40, num_envs=8
    )
    session = start_session("ppo", "tic_tac_toe", options, EnvOptions(), None, tmp_path, quiet=True)
    session.run_to_end()
    run = session.run
    kept = sorted(int(path.name) for path in run.weights.glob("0*"))
    stages = [step for i, step in enumerate(kept) if i == 0 or step // 40 > kept[i - 1] // 40]
    assert kept[0] == 0
    assert len(stages) == 11  # the first of each tenth, which no more checkpoints replace
    assert len(kept) == 40 + sum(step < kept[-40] for step in stages)
    newest = load(run.path).weights()
    assert all(torch.equal(load(f"{run.path}@{kept[-1]}").weights()[k], newest[k]) for k in newest)
    older = load(f"{run.path}@{kept[0]}").weights()
    assert not all(torch.equal(older[k], newest[k]) for k in newest)
    names = [f"{run.path}@{kept[0]}", str(run.path), "random"]
    everyone = [contender(name, "tic_tac_toe", epsilon=0.1) for name in names]
    standings, _ = rate(everyone, list(round_robin(everyone, "tic_tac_toe", 4, 0)), 0)
    assert {s.name for s in standings} == set(names)
    with pytest.raises(RunError, match=f"has no weights of 7 env steps; it has: {kept[0]}, "):
        load(f"{run.path}@7")
