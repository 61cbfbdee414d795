"""An agent at play, and a person against one, without a network between."""

import shutil
import time

import pytest
import torch

from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.run import Run, TrainOptions
from ludus.training.train import train
from ludus.viewer import stage as stages
from ludus.viewer.board import MOST_SIMULATIONS, BoardGame
from ludus.viewer.stage import Stage

# -- watching -----------------------------------------------------------------------------------


@pytest.fixture
def stage(runs, told):
    """Starts a stage of a run by its short name; ended after the test."""
    started = []

    def start(name, publish=told, **options):
        started.append(Stage(Run.open(runs[0] / runs[1][name]), publish, **options))
        return started[-1]

    yield start
    for one in started:
        one.worker.close()


def _frames(show, told, seed, count, begin=0):
    """The first steps of a game, one by one: head and pictures of each."""
    show.worker.command({"do": "pause"})
    show.worker.command({"do": "seed", "value": seed})
    at = [told.until_with_pictures(lambda h: _is_at(h, seed, begin) and h["paused"])]
    for step in range(begin + 1, begin + count):
        show.worker.command({"do": "step"})
        at.append(told.until_with_pictures(lambda h, step=step: _is_at(h, seed, step)))
    return at


def _is_at(head, seed, step):
    return head["kind"] in ("frame", "board") and (head["seed"], head["step"]) == (seed, step)


NEVER_THE_SAME = ("fps",)


@pytest.mark.parametrize("name", ["cartpole", "pong", "tic_tac_toe"])
def test_two_stages_of_a_run_and_a_seed_show_the_same(stage, told, name):
    """And another seed shows another game."""

    begin = 2 if name == "tic_tac_toe" else 0  # moves at random

    def story(seed):
        show = stage(name)
        told.until(lambda head: head["kind"] == "hello")
        shown = []
        for head, pictures in _frames(show, told, seed, 4, begin=begin):
            kept = {key: value for key, value in head.items() if key not in NEVER_THE_SAME}
            shown.append((kept, pictures))
        show.worker.close()
        return shown

    first, again, other = story(7), story(7), story(8)
    assert first == again
    for head, _ in other:
        head["seed"] = 7
    if name != "tic_tac_toe":  # its openings are few
        assert first != other


def test_what_a_page_is_told_first(stage, told):
    stage("pong")
    head = told.until(lambda head: True)
    assert head["kind"] == "hello"
    assert head["actions"] == ["noop", "fire", "right", "left", "rightfire", "leftfire"]
    assert head["saliencies"] == ["gradient", "perturbation"]
    assert len(head["layers"]) >= 2
    assert (head["paused"], head["speed"], head["seed"], head["board"]) == (False, 1.0, 0, False)


def test_pause_holds_the_game_and_play_goes_on(stage, told):
    show = stage("cartpole")
    show.worker.command({"do": "pause"})
    step = told.until(lambda head: head["kind"] == "frame" and head["paused"])["step"]
    for kind in ("gradient", "", "gradient"):  # each is answered by a picture of where it stands
        show.worker.command({"do": "saliency", "value": kind})
        head = told.until(lambda h, kind=kind: h["kind"] == "frame" and h["saliency"] == kind)
        assert (head["step"], head["paused"]) == (step, True)
    show.worker.command({"do": "play"})
    told.until(lambda head: head["kind"] == "frame" and head["step"] > step)


def test_step_makes_one_step_and_pauses(stage, told):
    show = stage("cartpole")
    shown = _frames(show, told, 3, 4)
    assert [head["step"] for head, _ in shown] == [0, 1, 2, 3]
    show.worker.command({"do": "play"})
    told.until(lambda head: head["kind"] == "frame" and not head["paused"] and head["step"] > 4)
    show.worker.command({"do": "step"})
    step = told.until(lambda head: head["paused"] and head["kind"] == "frame")["step"]
    show.worker.command({"do": "hello"})
    told.until(lambda head: head["kind"] == "hello" and head["paused"])
    later = told.until(lambda head: head["kind"] == "frame")["step"]
    assert later <= step + 1


def test_speed_is_steps_a_second(stage, told):
    """A tenth takes as long as it says; 0 waits for nothing."""

    def seconds(speed, steps):
        show.worker.command({"do": "speed", "value": speed})
        show.worker.command({"do": "seed", "value": 0})
        told.until(lambda h: h["kind"] == "frame" and h["speed"] == speed and h["step"] <= 1)
        began = time.monotonic()
        told.until(lambda head: head["kind"] == "frame" and head["step"] >= steps)
        return time.monotonic() - began

    show = stage("cartpole")
    usual = told.until(lambda head: head["kind"] == "hello")["usual"]
    slow = seconds(0.1, 5)
    assert slow > 3 / (0.1 * usual)
    assert seconds(0, 5) < slow / 2


def test_a_step_does_not_wait_for_the_speed(stage, told):
    """At one step in many minutes a person who asks for two steps gets them."""
    show = stage("cartpole")
    _frames(show, told, 3, 1)
    show.worker.command({"do": "speed", "value": 0.0001})
    for step in (1, 2):
        show.worker.command({"do": "step"})
        told.until(lambda h, step=step: h["kind"] == "frame" and h["step"] == step)


def test_another_speed_holds_at_once(stage, told):
    """Not only after the step that the slower one would have made in many minutes."""
    show = stage("cartpole")
    show.worker.command({"do": "speed", "value": 0.0001})
    told.until(lambda head: head["kind"] == "frame" and head["speed"] == 0.0001)
    show.worker.command({"do": "speed", "value": 1})
    step = told.until(lambda head: head["kind"] == "frame" and head["speed"] == 1)["step"]
    told.until(lambda head: head["kind"] == "frame" and head["step"] > step + 1)


def test_a_game_that_is_over_is_shown_and_followed_by_the_next_seed(stage, told):
    """At full speed, too, where most pictures are left out."""
    show = stage("cartpole")
    show.worker.command({"do": "speed", "value": 0})
    show.worker.command({"do": "seed", "value": 20})
    over = told.until(lambda head: head["kind"] == "frame" and head["seed"] == 20 and head["over"])
    assert over["return"] == over["step"] > 0
    assert "bars" not in over
    told.until(lambda head: head["kind"] == "frame" and head["seed"] == 21 and head["step"] > 0)


def test_who_comes_later_gets_the_values_so_far(stage, told):
    show = stage("cartpole")
    shown = _frames(show, told, 3, 4)
    show.worker.command({"do": "hello"})
    hello = told.until(lambda head: head["kind"] == "hello" and head["history"])
    values = {step: value for step, value, _ in hello["history"]}
    assert values == {head["step"]: head["value"] for head, _ in shown}


def test_the_bars_belong_to_the_actions(stage, told):
    show = stage("pong")
    names = told.until(lambda head: head["kind"] == "hello")["actions"]
    for head, _ in _frames(show, told, 0, 3):
        assert head["bars_are"] == "probabilities"
        assert len(head["bars"]) == len(names)
        assert sum(head["bars"]) == pytest.approx(1, abs=1e-4)
        assert head["action"] == max(range(len(names)), key=head["bars"].__getitem__)
    other = stage("cartpole")
    for head, _ in _frames(other, told, 0, 2):
        assert head["bars_are"] == "values"
        assert head["value"] == pytest.approx(max(head["bars"]), rel=1e-4)


@pytest.mark.parametrize("kind", ["gradient", "perturbation"])
def test_saliency_and_feature_maps_are_sent_where_they_are_asked_for(stage, told, kind):
    show = stage("pong")
    layers = told.until(lambda head: head["kind"] == "hello")["layers"]
    show.worker.command({"do": "pause"})
    _, pictures = told.until_with_pictures(lambda head: head["kind"] == "frame" and head["paused"])
    assert set(pictures) == {"picture"}
    show.worker.command({"do": "saliency", "value": kind})
    show.worker.command({"do": "layer", "value": layers[-1]})
    _, pictures = told.until_with_pictures(
        lambda head: (head["saliency"], head["layer"]) == (kind, layers[-1])
    )
    assert set(pictures) == {"picture", "heat", "maps"}
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())


def test_newer_weights_are_taken_while_it_plays(runs, told, tmp_path, monkeypatch):
    """A checkpoint of other numbers changes what the agent thinks of the same position."""
    monkeypatch.setattr(stages, "_FOLLOW_SECONDS", 0.05)
    path = shutil.copytree(runs[0] / runs[1]["cartpole"], tmp_path / "run")
    run = Run.open(path)
    show = Stage(run, told)
    try:
        ((before, _),) = _frames(show, told, 0, 1)
        assert before["weights"] == 300
        weights = {k: torch.zeros_like(v) for k, v in run.newest_weights().items()}
        save_checkpoint(run.weights, 400, weights, keep=2)
        after = told.until(lambda head: head["kind"] == "frame" and head["weights"] == 400)
        assert (after["step"], after["seed"]) == (0, 0)
        assert after["bars"] == [0.0, 0.0]
        assert before["bars"] != after["bars"]
    finally:
        show.worker.close()


def test_newer_weights_that_are_damaged_are_passed_over(runs, told, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_FOLLOW_SECONDS", 0.05)
    path = shutil.copytree(runs[0] / runs[1]["cartpole"], tmp_path / "run")
    run = Run.open(path)
    good = run.newest_weights()
    shutil.copytree(run.weights / f"{300:012d}", run.weights / f"{350:012d}")
    show = Stage(run, told)
    try:
        _frames(show, told, 0, 2)
        (run.weights / f"{500:012d}").mkdir()
        _frames(show, told, 1, 3)  # goes on with what it has
        assert newest_checkpoint(run.weights)[0].keys() == good.keys()
    finally:
        show.worker.close()


def test_a_run_without_weights_says_so(runs, told, tmp_path):
    path = shutil.copytree(runs[0] / runs[1]["cartpole"], tmp_path / "run")
    shutil.rmtree(path / "weights")
    show = Stage(Run.open(path), told)
    try:
        head = told.until(lambda head: head["kind"] == "error")
        assert "no weights yet" in head["text"]
        assert "\n" not in head["text"]
    finally:
        show.worker.close()


def test_a_person_presses_and_the_agent_plays_beside(stage, told):
    """On the same seed: the first pictures are the same, and a person who holds one key falls."""
    show = stage("cartpole", person=True)
    head = told.until(lambda head: head["kind"] == "hello")
    assert head["person"]
    show.worker.command({"do": "press", "value": 1})
    ((first, pictures), (second, _)) = _frames(show, told, 5, 2)
    assert pictures["own"] == pictures["picture"]
    assert (first["own"]["step"], second["own"]["step"]) == (0, 1)
    show.worker.command({"do": "press", "value": 1})
    show.worker.command({"do": "speed", "value": 0})
    show.worker.command({"do": "play"})
    over = told.until(lambda head: head["kind"] == "frame" and head["own"]["over"])
    assert 5 <= over["own"]["step"] <= 15
    assert over["own"]["return"] == over["own"]["step"]


def test_both_sides_of_a_board_game(stage, told):
    """The board fills, a value is of who began, and the end has a result."""
    show = stage("tic_tac_toe")
    head = told.until(lambda head: head["kind"] == "hello")
    assert (head["board"], head["game"]) == (True, "tic_tac_toe")
    show.worker.command({"do": "pause"})
    show.worker.command({"do": "seed", "value": 0})
    told.until(lambda head: head["kind"] == "board" and head["paused"] and head["step"] == 0)
    for step in range(1, 10):
        show.worker.command({"do": "step"})
        head = told.until(lambda h, step=step: h["kind"] == "board" and h["step"] == step)
        assert len(head["scene"]["pieces"]) == step
        if head["over"]:
            assert head["result"] in (-1, 0, 1)
            assert step >= 5
            return
        assert -1 <= head["value"] <= 1
        legal = {str(move["action"]) for move in head["scene"]["moves"]}
        assert set(head["opinion"]["visits"]) == legal
        assert str(head["best"]) in legal
    raise AssertionError("nine moves and no end")


def test_a_stage_that_is_closed_plays_no_more(runs, told):
    show = Stage(Run.open(runs[0] / runs[1]["cartpole"]), told)
    told.until(lambda head: head["kind"] == "frame")
    show.worker.close()
    assert not show.worker.alive


# -- playing against ----------------------------------------------------------------------------


@pytest.fixture
def game(runs, told):
    """A game of tic-tac-toe against the agent, of two simulations a move."""
    made = BoardGame(Run.open(runs[0] / runs[1]["tic_tac_toe"]), told)
    made.worker.command({"do": "simulations", "value": 2})
    head = told.until(lambda head: head.get("simulations") == 2)
    assert (head["step"], head["side"], head["game"]) == (0, 0, "tic_tac_toe")
    yield made
    made.worker.close()


def _mine(head):
    return not head["thinking"]


def _stones(head):
    return {piece["cell"]: piece["player"] for piece in head["scene"]["pieces"]}


def test_the_agent_answers_a_move(game, told):
    game.worker.command({"do": "move", "value": 4})
    head = told.until(lambda head: head["step"] == 2)
    stones = _stones(head)
    assert stones[4] == 0
    assert sorted(stones.values()) == [0, 1]
    assert head["opinion"] is None  # nothing is said that was not asked for
    assert head["scene"]["mover"] == 0


def test_illegal_moves_change_nothing(game, told):
    game.worker.command({"do": "move", "value": 4})
    before = told.until(lambda head: head["step"] == 2)
    taken = next(cell for cell, player in _stones(before).items() if player == 1)
    for value in (4, taken, 9, -1, 100, "0", None, 1.5):
        game.worker.command({"do": "move", "value": value})
    game.worker.command({"do": "hint"})
    after = told.until(lambda head: head["hint"])
    assert _stones(after) == _stones(before)


def test_undo_takes_back_ones_own_move_and_the_answer(game, told):
    game.worker.command({"do": "move", "value": 0})
    first = told.until(lambda head: head["step"] == 2)
    free = min(set(range(9)) - set(_stones(first)))
    game.worker.command({"do": "move", "value": free})
    told.until(lambda head: head["step"] == 4)
    game.worker.command({"do": "undo"})
    head = told.until(lambda head: head["step"] == 2)
    assert _stones(head) == _stones(first)
    game.worker.command({"do": "undo"})
    assert _stones(told.until(lambda head: head["step"] == 0)) == {}
    game.worker.command({"do": "undo"})
    assert told.until(lambda head: True)["step"] == 0


def test_a_hint_is_good_for_one_move(game, told):
    game.worker.command({"do": "hint"})
    head = told.until(lambda head: head["hint"])
    assert sum(head["opinion"]["visits"].values()) > 0
    assert set(head["opinion"]["visits"]) == {str(cell) for cell in range(9)}
    assert -1 <= head["value"] <= 1
    game.worker.command({"do": "move", "value": head["best"]})
    head = told.until(lambda head: head["step"] == 2)
    assert (head["hint"], head["opinion"]) == (False, None)


def test_what_it_thinks_is_shown_until_it_is_hidden(game, told):
    game.worker.command({"do": "show", "value": True})
    assert told.until(lambda head: head["show"])["opinion"]
    game.worker.command({"do": "move", "value": 8})
    assert told.until(lambda head: head["step"] == 2)["opinion"]
    game.worker.command({"do": "show", "value": False})
    assert told.until(lambda head: not head["show"])["opinion"] is None


def test_the_other_side_begins_a_new_game(game, told):
    game.worker.command({"do": "move", "value": 8})
    told.until(lambda head: head["step"] == 2)
    game.worker.command({"do": "side", "value": 1})
    head = told.until(lambda head: head["side"] == 1 and head["step"] == 1)
    assert list(_stones(head).values()) == [0]
    assert head["scene"]["mover"] == 1
    game.worker.command({"do": "undo"})  # the agent's own opening stays
    game.worker.command({"do": "hint"})
    assert told.until(lambda head: head["hint"])["step"] == 1
    game.worker.command({"do": "new"})
    told.until(lambda head: head["step"] == 0)
    told.until(lambda head: head["step"] == 1)


@pytest.mark.parametrize("count", [1, 16])
def test_simulations_are_what_the_search_makes(game, told, count):
    """Each visits the position once, wherever it goes from there."""
    game.worker.command({"do": "simulations", "value": count})
    game.worker.command({"do": "hint"})
    head = told.until(lambda head: head["hint"])
    assert head["simulations"] == count
    assert sum(head["opinion"]["visits"].values()) == count
    game.worker.command({"do": "simulations", "value": MOST_SIMULATIONS + 1})
    game.worker.command({"do": "hint"})
    assert told.until(lambda head: head["hint"])["simulations"] == count


@pytest.mark.parametrize("side", [0, 1])
def test_a_whole_game_ends_with_a_result(game, told, side):
    """Whatever is played; and nothing can be moved after it, but a new game begun."""
    game.worker.command({"do": "side", "value": side})
    head = told.until(lambda head: head["side"] == side and head["step"] == side)
    while not head["over"]:
        step = head["step"]
        game.worker.command({"do": "move", "value": head["scene"]["moves"][-1]["action"]})
        head = told.until(lambda h, step=step: h["over"] or (h["step"] >= step + 2 and _mine(h)))
    assert head["result"] in (-1, 0, 1)
    assert head["scene"]["moves"] in ([], ())
    game.worker.command({"do": "move", "value": 0})
    game.worker.command({"do": "hint"})
    assert told.until(lambda head: head["hint"])["over"]
    game.worker.command({"do": "new"})
    told.until(lambda head: head["step"] == 0)


def test_an_agent_without_opinions_is_refused(told, tmp_path):
    more = TrainOptions(num_envs=8, eval_episodes=0)
    train("random", "tic_tac_toe", steps=16, train_options=more, root=tmp_path, quiet=True)
    (path,) = tmp_path.glob("*/*/*")
    for made in (BoardGame(Run.open(path), told), Stage(Run.open(path), told)):
        try:
            head = told.until(lambda head: head["kind"] == "error")
            assert "nothing of its moves; choose another run" in head["text"]
        finally:
            made.worker.close()
