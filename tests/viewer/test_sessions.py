"""Sessions without a server: an agent that plays, and a person against an agent."""

import asyncio
import io
import shutil
import threading

import av
import pytest
import torch

from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import HELD_OUT_SEEDS
from ludus.evaluation.feature_map import has_umap
from ludus.training.api import train
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.run import Run, TrainOptions
from ludus.training.train import load
from ludus.viewer import playback_session, similar
from ludus.viewer.game_session import MAX_SIMULATIONS, GameSession
from ludus.viewer.messages import decode_png
from ludus.viewer.playback_session import Pace, PlaybackSession
from ludus.viewer.server import Outbox
from ludus.viewer.views import EnvView

from .conftest import LIMIT, open_run, unpack


@pytest.fixture
def start(runs, published):
    """Starts a playback session of a run by its short name; closed after the test."""
    started = []

    def start(name, publish=published, **options):
        started.append(PlaybackSession(*open_run(runs, name), publish, **options))
        return started[-1]

    yield start
    for session in started:
        session.worker.close(LIMIT)


def _copy(runs, path):
    """Copy the cartpole run, so that it can be changed; return it and its config."""
    run = Run.open(shutil.copytree(runs[0] / runs[1]["cartpole"], path))
    return run, run.config()


def _send(session, command, value=None):
    session.worker.submit({"do": command, "value": value})


def _frames(session, published, seed, count, begin=0):
    """The first steps of a game, one by one: head and images of each."""
    _send(session, "pause")
    _send(session, "seed", seed)
    at = [published.until_with_images(lambda h: _is_at(h, seed, begin) and h["paused"])]
    for step in range(begin + 1, begin + count):
        _send(session, "step")
        at.append(published.until_with_images(lambda h, step=step: _is_at(h, seed, step)))
    return at


def _is_at(head, seed, step):
    return head["kind"] in ("frame", "board") and (head["seed"], head["step"]) == (seed, step)


NEVER_THE_SAME = ("fps",)


@pytest.mark.parametrize("name", ["cartpole", "pong", "tic_tac_toe"])
def test_two_stages_of_a_run_and_a_seed_show_the_same(start, published, name):
    """And another seed shows another game."""

    begin = 2 if name == "tic_tac_toe" else 0  # moves at random

    def story(seed):
        session = start(name)
        published.until(lambda head: head["kind"] == "hello")
        shown = []
        for head, images in _frames(session, published, seed, 4, begin=begin):
            kept = {key: value for key, value in head.items() if key not in NEVER_THE_SAME}
            shown.append((kept, images))
        session.worker.close(LIMIT)
        return shown

    first, again, other = story(7), story(7), story(8)
    assert first == again
    for head, _ in other:
        head["seed"] = 7
    if name != "tic_tac_toe":  # its openings are few
        assert first != other


def test_what_a_page_is_published_first(start, published):
    start("pong")
    head = published.until(lambda head: True)
    assert head["kind"] == "hello"
    assert head["actions"] == ["noop", "fire", "right", "left", "rightfire", "leftfire"]
    assert head["saliencies"] == ["gradient", "perturbation"]
    assert len(head["layers"]) >= 2
    assert (head["paused"], head["speed"], head["seed"], head["board"]) == (False, 1.0, 0, False)


def test_pause_holds_the_game_and_play_goes_on(start, published):
    session = start("cartpole")
    ((head, _),) = _frames(session, published, 3, 1)
    for kind in ("gradient", "", "gradient"):  # each is answered by a frame of the same step
        _send(session, "saliency", kind)
        head = published.until(lambda h, kind=kind: h["kind"] == "frame" and h["saliency"] == kind)
        assert (head["step"], head["paused"]) == (0, True)
    _send(session, "play")
    published.until(lambda head: head["kind"] == "frame" and head["step"] > 0)


def test_step_makes_one_step_and_pauses(start, published):
    session = start("cartpole")
    shown = _frames(session, published, 3, 4)
    assert [head["step"] for head, _ in shown] == [0, 1, 2, 3]
    _send(session, "play")
    published.until(
        lambda head: head["kind"] == "frame" and not head["paused"] and head["step"] > 4
    )
    _send(session, "step")
    step = published.until(lambda head: head["paused"] and head["kind"] == "frame")["step"]
    _send(session, "hello")
    published.until(lambda head: head["kind"] == "hello" and head["paused"])
    later = published.until(lambda head: head["kind"] == "frame")["step"]
    assert later <= step + 1


def test_the_pace_is_steps_per_second():
    """By hand: at 4 steps per second, steps are due at 10, 10.25, 10.5, ..."""
    pace = Pace(10.0)
    assert pace.due == 10.0
    pace.step_taken(10.1, 4.0)  # a little late: the next is on time again
    assert pace.due == 10.25
    pace.step_taken(12.0, 4.0)  # much later: those that were missed are not made up for
    assert pace.due == 12.0
    pace.step_taken(12.0, 4.0)
    assert pace.due == 12.25
    pace.step_taken(12.25, 0)  # 0 is without a pause
    assert pace.due == 12.25
    pace.hold(13.0, 1.5)
    assert pace.due == 14.5


def test_the_speed_is_a_multiple_of_the_usual_speed(start, published, monkeypatch):
    """The pace gets the speed that was chosen, times that of the env."""
    paces = []

    class Recorded(Pace):
        def step_taken(self, now, steps_per_second):
            paces.append(steps_per_second)
            super().step_taken(now, 0)

    monkeypatch.setattr(playback_session, "Pace", Recorded)
    for name, usual in (("cartpole", 30), ("pong", 15), ("tic_tac_toe", 1)):
        session = start(name)
        _send(session, "pause")
        published.until(lambda head: head.get("paused"))
        for speed in (0.1, 1, 4, 0):
            paces.clear()
            _send(session, "speed", speed)
            _send(session, "seed", 0)
            _send(session, "step")
            published.until(
                lambda h, s=speed: h["kind"] != "hello" and (h["speed"], h["step"]) == (s, 1)
            )
            assert paces == [pytest.approx(usual * speed)]
        session.worker.close(LIMIT)


@pytest.mark.parametrize("name", ["cartpole", "pong"])
def test_each_command_of_a_batch_is_a_step(start, published, monkeypatch, name):
    """Commands that arrive during one step are taken together."""
    advance, session = PlaybackSession._advance, start(name)
    _frames(session, published, 3, 1)

    def advance_during_commands(playing, pace, now):
        monkeypatch.setattr(PlaybackSession, "_advance", advance)
        _send(session, "step")
        _send(session, "step")
        advance(playing, pace, now)

    monkeypatch.setattr(PlaybackSession, "_advance", advance_during_commands)
    _send(session, "step")
    published.until(lambda head: _is_at(head, 3, 3))
    _send(session, "hello")
    published.until(lambda head: head["kind"] == "hello")
    assert published.until(lambda head: head["kind"] in ("frame", "board"))["step"] == 3


VERY_SLOW = 1e-9  # less than a step in a year


def test_a_step_does_not_wait_for_the_speed(start, published):
    session = start("cartpole")
    _frames(session, published, 3, 1)
    _send(session, "speed", VERY_SLOW)
    for step in (1, 2):
        _send(session, "step")
        published.until(lambda h, step=step: h["kind"] == "frame" and h["step"] == step)


def test_another_speed_holds_at_once(start, published):
    """Not only after the step that the slower speed would have taken in a year."""
    session = start("cartpole")
    _send(session, "speed", VERY_SLOW)
    published.until(lambda head: head["kind"] == "frame" and head["speed"] == VERY_SLOW)
    _send(session, "speed", 1)
    seed = published.until(lambda head: head["kind"] == "frame" and head["speed"] == 1)["seed"]
    # a game of more than two steps has been played with the new speed
    published.until(lambda head: head["kind"] == "frame" and head["seed"] == seed + 1)


def test_a_game_that_is_over_is_shown_and_followed_by_the_next_seed(start, published):
    """At full speed, too, where most images are left out."""
    session = start("cartpole")
    _send(session, "speed", 0)
    _send(session, "seed", 20)
    over = published.until(
        lambda head: head["kind"] == "frame" and head["seed"] == 20 and head["over"]
    )
    assert over["return"] == over["step"] > 0
    assert "bars" not in over
    published.until(
        lambda head: head["kind"] == "frame" and head["seed"] == 21 and head["step"] > 0
    )


def test_who_comes_later_gets_the_values_so_far(start, published):
    session = start("cartpole")
    shown = _frames(session, published, 3, 4)
    _send(session, "hello")
    hello = published.until(lambda head: head["kind"] == "hello" and head["history"])
    values = {step: value for step, value, _ in hello["history"]}
    assert values == {head["step"]: head["value"] for head, _ in shown}


def test_the_bars_belong_to_the_actions(start, published):
    session = start("pong")
    names = published.until(lambda head: head["kind"] == "hello")["actions"]
    for head, _ in _frames(session, published, 0, 3):
        assert head["bars_are"] == "probabilities"
        assert len(head["bars"]) == len(names)
        assert sum(head["bars"]) == pytest.approx(1, abs=1e-4)
        assert head["action"] == max(range(len(names)), key=head["bars"].__getitem__)
    other = start("cartpole")
    for head, _ in _frames(other, published, 0, 2):
        assert head["bars_are"] == "values"
        assert head["value"] == pytest.approx(max(head["bars"]), rel=1e-4)


@pytest.mark.parametrize("kind", ["gradient", "perturbation"])
def test_saliency_and_feature_maps_are_sent_where_they_are_asked_for(start, published, kind):
    session = start("pong")
    layers = published.until(lambda head: head["kind"] == "hello")["layers"]
    _send(session, "pause")
    _, images = published.until_with_images(lambda head: head["kind"] == "frame" and head["paused"])
    assert set(images) == {"picture"}
    _send(session, "saliency", kind)
    _send(session, "layer", layers[-1])
    _, images = published.until_with_images(
        lambda head: (head["saliency"], head["layer"]) == (kind, layers[-1])
    )
    assert set(images) == {"picture", "heat", "maps"}
    assert all(data.startswith(b"\x89PNG") for data in images.values())


def test_similar_states_are_sent_where_they_are_asked_for(start, published):
    session = start("pong")
    hello = published.until(lambda head: head["kind"] == "hello")
    assert "similar" in hello["panels"]
    _send(session, "similar", True)
    _send(session, "speed", 0)
    head, images = published.until_with_images(lambda head: head.get("similar_states"))
    assert images["similar"].startswith(b"\x89PNG")
    assert 1 <= len(head["similar_states"]) <= 4
    for state in head["similar_states"]:
        assert -1.001 <= state["similarity"] <= 1.001
        assert state["seed"] != head["seed"] or abs(state["step"] - head["step"]) >= 20
    assert "replayed_states" not in head  # PPO has no replay
    _send(session, "similar", False)
    published.until(lambda head: head["kind"] == "frame" and "similar" not in head["panels_shown"])
    _send(session, "similar", "yes")  # is ignored
    _, images = published.until_with_images(lambda head: head["kind"] == "frame")
    assert set(images) == {"picture"}


def test_similar_states_of_the_saved_replay_are_sent(start, published):
    session = start("cartpole")
    _send(session, "similar", True)
    head = published.until(lambda head: head.get("replayed_states"))
    for state in head["replayed_states"]:
        assert -1.001 <= state["similarity"] <= 1.001
        assert 0 <= state["age"] < 300
        assert len(state["numbers"]) == 4
    assert len(head["replayed_states"]) == 4


def test_filters_and_units_are_sent_where_they_are_asked_for(start, published):
    session = start("pong")
    hello = published.until(lambda head: head["kind"] == "hello")
    assert hello["panels"] == ["similar", "features", "units", "filters"]
    for choice in ("filters", "units"):
        _send(session, choice, "yes")  # is ignored
        _send(session, choice, True)
    _send(session, "speed", 0)
    head, images = published.until_with_images(lambda head: head.get("units"))
    assert {"filters", "units"} <= set(images)
    assert all(images[name].startswith(b"\x89PNG") for name in ("filters", "units"))
    for unit in head["units"]:
        outputs = [state["output"] for state in unit["states"]]
        assert outputs == sorted(outputs, reverse=True)
    for choice in ("filters", "units"):
        _send(session, choice, False)
    head, images = published.until_with_images(
        lambda head: head["kind"] == "frame" and not head["panels_shown"]
    )
    assert set(images) == {"picture"}
    assert "units" not in head


def test_occlusion_is_sent_where_it_is_asked_for(start, published):
    session = start("tic_tac_toe")
    assert published.until(lambda head: head["kind"] == "hello")["panels"] == ["occlusion"]
    _send(session, "occlusion", True)
    head = published.until(lambda head: head.get("occlusion"))
    cells = {piece["cell"] for piece in head["position"]["pieces"]}
    assert {each["cell"] for each in head["occlusion"]} == cells
    assert all(0 <= each["policy"] <= 1 for each in head["occlusion"])
    _send(session, "occlusion", False)
    published.until(lambda head: head["kind"] == "board" and "occlusion" not in head)


def test_the_map_of_umap_is_sent_once_it_is_made(start, published, monkeypatch):
    """Also while the game is paused, and no other replaces it by itself."""
    monkeypatch.setattr(similar, "umap_points", lambda features, seed: features[:, :2])
    monkeypatch.setattr(playback_session, "has_umap", lambda: True)
    session = start("pong")
    assert published.until(lambda head: head["kind"] == "hello")["has_umap"] == has_umap()
    _send(session, "speed", 0)
    _send(session, "features", True)
    published.until(lambda head: head["kind"] == "map" and len(head["states"]) > 3)
    _send(session, "pause")
    _send(session, "umap", "yes")  # is ignored
    _send(session, "umap", True)
    found = published.until(lambda head: head["kind"] == "map" and head["share"] is None)
    assert len(found["points"]) == len(found["states"]) > 3
    _send(session, "step")
    head = published.until(lambda head: head["kind"] == "frame" and head["umap"])
    assert head["place"] is None
    _send(session, "umap", False)
    published.until(lambda head: head["kind"] == "map" and head["share"] is not None)


def test_the_map_of_features_is_sent_where_it_is_asked_for(start, published):
    session = start("pong")
    published.until(lambda head: head["kind"] == "frame")
    _send(session, "speed", 0)
    _send(session, "features", "yes")  # is ignored
    _send(session, "features", True)
    found = published.until(lambda head: head["kind"] == "map")
    assert found["weights"] == 256
    lengths = {len(found[key]) for key in ("states", "points", "values", "games", "steps")}
    assert lengths == {3}
    head, images = published.until_with_images(lambda head: head.get("place"))
    assert head["place"]["map"] >= found["map"]
    assert set(images) == {"picture"}  # and not those of similar states
    assert "similar_states" not in head
    _send(session, "pause")
    _send(session, "features", True)  # a new map, now
    last = published.until(lambda head: head["kind"] == "map" and head["map"] > found["map"])
    _send(session, "state", last["states"][0])
    head, images = published.until_with_images(lambda head: head["kind"] == "state")
    assert head["state"] == last["states"][0]
    assert decode_png(images["picture"]).shape == (80, 61, 3)
    _send(session, "state", 10**9)
    head, images = published.until_with_images(lambda head: head["kind"] == "state")
    assert (head["state"], images) == (10**9, {})
    _send(session, "features", False)
    published.until(lambda head: head["kind"] == "frame" and "features" not in head["panels_shown"])
    _send(session, "step")
    head = published.until(lambda head: head["kind"] == "frame")
    assert "place" not in head


@pytest.mark.parametrize(
    ("env_id", "planes"), [("MinAtar/Breakout-v1", True), ("CartPole-v1", False)]
)
def test_reconstructions_are_sent_where_they_are_asked_for(tmp_path, published, env_id, planes):
    more = TrainOptions(num_envs=2, eval_episodes=0, video_every=0, device="cpu")
    options = {"train_options": more, "root": tmp_path, "quiet": True}
    train("dqn", env_id, steps=40, auxiliary="reconstruction", **options)
    (path,) = tmp_path.glob("*/*/*")
    run = Run.open(path)
    session = PlaybackSession(run, run.config(), published)
    try:
        hello = published.until(lambda head: head["kind"] == "hello")
        assert "reconstruction" in hello["panels"]
        ((head, images),) = _frames(session, published, 3, 1)
        assert "reconstruction" not in head
        assert set(images) == {"picture"}
        _send(session, "reconstruction", 1)  # is ignored
        _send(session, "reconstruction", True)
        head, images = published.until_with_images(
            lambda head: "reconstruction" in head["panels_shown"]
        )
        assert (head["seed"], head["step"]) == (3, 0)
        row = make(env_id, 1, 3 + HELD_OUT_SEEDS, EnvOptions()).reset()
        network = load(path).network
        with torch.no_grad():
            decoded = network.auxiliary(network.latents(torch.from_numpy(row.obs)))[0].numpy()
        error = float(((decoded - row.obs[0]) ** 2).mean())
        assert head["reconstruction"]["error"] == pytest.approx(error, rel=1e-4)
        if planes:
            assert head["reconstruction"]["numbers"] == []
            assert decode_png(images["reconstruction"]).shape == (80, 3 * 80 + 2 * 2, 3)
        else:
            numbers = list(zip(row.obs[0].tolist(), decoded.tolist(), strict=True))
            for pair, expected in zip(head["reconstruction"]["numbers"], numbers, strict=True):
                assert pair == pytest.approx(expected, rel=1e-4)
            assert "reconstruction" not in images
    finally:
        session.worker.close(LIMIT)


def test_an_agent_without_a_decoder_has_no_reconstruction(start, published):
    session = start("cartpole")
    hello = published.until(lambda head: head["kind"] == "hello")
    assert "reconstruction" not in hello["panels"]
    _send(session, "reconstruction", True)
    head = published.until(
        lambda head: head["kind"] == "frame" and "reconstruction" in head["panels_shown"]
    )
    assert "reconstruction" not in head


def test_newer_weights_are_taken_while_it_plays(runs, published, tmp_path, monkeypatch):
    """A checkpoint of other numbers changes what the agent thinks of the same position."""
    monkeypatch.setattr(playback_session, "_CHECK_WEIGHTS_SECONDS", 0.05)
    run, config = _copy(runs, tmp_path / "run")
    session = PlaybackSession(run, config, published)
    try:
        ((before, _),) = _frames(session, published, 0, 1)
        assert before["weights"] == 300
        weights = {k: torch.zeros_like(v) for k, v in run.newest_weights().items()}
        save_checkpoint(run.weights, 400, weights, keep=2)
        after = published.until(lambda head: head["kind"] == "frame" and head["weights"] == 400)
        assert (after["step"], after["seed"]) == (0, 0)
        assert after["bars"] == [0.0, 0.0]
        assert before["bars"] != after["bars"]
    finally:
        session.worker.close(LIMIT)


def test_newer_weights_that_are_damaged_are_passed_over(runs, published, tmp_path, monkeypatch):
    monkeypatch.setattr(playback_session, "_CHECK_WEIGHTS_SECONDS", 0.05)
    run, config = _copy(runs, tmp_path / "run")
    good = run.newest_weights()
    shutil.copytree(run.weights / f"{300:012d}", run.weights / f"{350:012d}")
    session = PlaybackSession(run, config, published)
    try:
        _frames(session, published, 0, 2)
        (run.weights / f"{500:012d}").mkdir()
        _frames(session, published, 1, 3)  # goes on with what it has
        assert newest_checkpoint(run.weights)[0].keys() == good.keys()
    finally:
        session.worker.close(LIMIT)


def test_a_run_without_weights_says_so(runs, published, tmp_path):
    run, config = _copy(runs, tmp_path / "run")
    shutil.rmtree(run.weights)
    session = PlaybackSession(run, config, published)
    try:
        head = published.until(lambda head: head["kind"] == "error")
        assert "has ended without weights" in head["text"]
        assert "\n" not in head["text"]
    finally:
        session.worker.close(LIMIT)


@pytest.mark.parametrize("when", ["loading", "playing", "against a person"])
def test_an_error_is_published_once_nobody_can_join_any_more(runs, tmp_path, monkeypatch, when):
    """A page that joined after its last message would wait for ever."""
    run, config = _copy(runs, tmp_path / "run")
    if when == "playing":
        monkeypatch.setattr(EnvView, "step", lambda self: 1 / 0)
    else:
        shutil.rmtree(run.weights)
    known, ended, closed = threading.Event(), threading.Event(), []

    def publish(message, lasting):
        assert known.wait(LIMIT)
        if unpack(message)[0]["kind"] == "error":
            closed.append(session.worker.closed)
            ended.set()

    session = (GameSession if when == "against a person" else PlaybackSession)(run, config, publish)
    known.set()
    try:
        assert ended.wait(LIMIT)
        assert closed == [True]
    finally:
        session.worker.close(LIMIT)


def test_a_person_presses_and_the_agent_plays_beside(start, published):
    """On the same seed: the first images are the same, and a person who holds one key falls."""
    session = start("cartpole", person=True)
    head = published.until(lambda head: head["kind"] == "hello")
    assert head["person"]
    _send(session, "press", 1)
    ((first, images), (second, _)) = _frames(session, published, 5, 2)
    assert images["person"] == images["picture"]
    assert (first["person"]["step"], second["person"]["step"]) == (0, 1)
    _send(session, "press", 1)
    _send(session, "speed", 0)
    _send(session, "play")
    over = published.until(lambda head: head["kind"] == "frame" and head["person"]["over"])
    assert 5 <= over["person"]["step"] <= 15
    assert over["person"]["return"] == over["person"]["step"]


def test_both_sides_of_a_board_game(start, published):
    """The board fills, a value is of who began, and the end has a result."""
    session = start("tic_tac_toe")
    head = published.until(lambda head: head["kind"] == "hello")
    assert (head["board"], head["game"]) == (True, "tic_tac_toe")
    _send(session, "pause")
    _send(session, "seed", 0)
    published.until(lambda head: head["kind"] == "board" and head["paused"] and head["step"] == 0)
    for step in range(1, 10):
        _send(session, "step")
        head = published.until(lambda h, step=step: h["kind"] == "board" and h["step"] == step)
        assert len(head["position"]["pieces"]) == step
        if head["over"]:
            assert head["result"] in (-1, 0, 1)
            assert step >= 5
            return
        assert -1 <= head["value"] <= 1
        legal = {str(move["action"]) for move in head["position"]["moves"]}
        assert set(head["advice"]["visits"]) == legal
        assert str(head["best"]) in legal
    raise AssertionError("nine moves and no end")


def test_a_stage_that_is_closed_plays_no_more(runs, published):
    session = PlaybackSession(*open_run(runs, "cartpole"), published)
    published.until(lambda head: head["kind"] == "frame")
    session.worker.close(LIMIT)
    assert not session.worker.alive


@pytest.fixture
def game(runs, published):
    """A game of tic-tac-toe against the agent, of two simulations a move."""
    made = GameSession(*open_run(runs, "tic_tac_toe"), published)
    _send(made, "simulations", 2)
    head = published.until(lambda head: head.get("simulations") == 2)
    assert (head["step"], head["side"], head["game"]) == (0, 0, "tic_tac_toe")
    yield made
    made.worker.close(LIMIT)


def _mine(head):
    return not head["thinking"]


def _stones(head):
    return {piece["cell"]: piece["player"] for piece in head["position"]["pieces"]}


def test_the_agent_answers_a_move(game, published):
    _send(game, "move", 4)
    head = published.until(lambda head: head["step"] == 2)
    stones = _stones(head)
    assert stones[4] == 0
    assert sorted(stones.values()) == [0, 1]
    assert head["advice"] is None  # nothing is said that was not asked for
    assert head["position"]["mover"] == 0


def test_a_slow_page_misses_no_position_of_its_game(runs, published):
    """The page goes back to what it has received."""
    outbox = Outbox()

    def publish(message, lasting):
        outbox.put(message, lasting)
        published(message, lasting)

    game = GameSession(*open_run(runs, "tic_tac_toe"), publish)
    _send(game, "simulations", 1)
    published.until(lambda head: head.get("simulations") == 1)
    _send(game, "move", 4)
    published.until(lambda head: head["step"] == 2)
    game.worker.close(LIMIT)

    async def received():
        outbox.put(b"the end", False)
        messages = [await outbox.get()]
        while messages[-1] != b"the end":
            messages.append(await outbox.get())
        return messages[:-1]

    assert [unpack(message)[0]["step"] for message in asyncio.run(received())] == [0, 0, 1, 2]


def test_illegal_moves_change_nothing(game, published):
    _send(game, "move", 4)
    before = published.until(lambda head: head["step"] == 2)
    taken = next(cell for cell, player in _stones(before).items() if player == 1)
    for value in (4, taken, 9, -1, 100, "0", None, 1.5):
        _send(game, "move", value)
    _send(game, "hint")
    after = published.until(lambda head: head["hint"])
    assert _stones(after) == _stones(before)


def test_undo_takes_back_ones_own_move_and_the_answer(game, published):
    _send(game, "move", 0)
    first = published.until(lambda head: head["step"] == 2)
    free = min(set(range(9)) - set(_stones(first)))
    _send(game, "move", free)
    published.until(lambda head: head["step"] == 4)
    _send(game, "undo")
    head = published.until(lambda head: head["step"] == 2)
    assert _stones(head) == _stones(first)
    _send(game, "undo")
    assert _stones(published.until(lambda head: head["step"] == 0)) == {}
    _send(game, "undo")
    assert published.until(lambda head: True)["step"] == 0


def test_a_hint_is_good_for_one_move(game, published):
    _send(game, "hint")
    head = published.until(lambda head: head["hint"])
    assert sum(head["advice"]["visits"].values()) > 0
    assert set(head["advice"]["visits"]) == {str(cell) for cell in range(9)}
    assert -1 <= head["value"] <= 1
    _send(game, "move", head["best"])
    head = published.until(lambda head: head["step"] == 2)
    assert (head["hint"], head["advice"]) == (False, None)


def test_what_it_thinks_is_shown_until_it_is_hidden(game, published):
    _send(game, "show", True)
    assert published.until(lambda head: head["show"])["advice"]
    _send(game, "move", 8)
    assert published.until(lambda head: head["step"] == 2)["advice"]
    _send(game, "show", False)
    assert published.until(lambda head: not head["show"])["advice"] is None


def test_the_other_side_begins_a_new_game(game, published):
    _send(game, "move", 8)
    published.until(lambda head: head["step"] == 2)
    _send(game, "side", 1)
    head = published.until(lambda head: head["side"] == 1 and head["step"] == 1)
    assert list(_stones(head).values()) == [0]
    assert head["position"]["mover"] == 1
    _send(game, "undo")  # the agent's own opening stays
    _send(game, "hint")
    assert published.until(lambda head: head["hint"])["step"] == 1
    _send(game, "new")
    published.until(lambda head: head["step"] == 0)
    published.until(lambda head: head["step"] == 1)


@pytest.mark.parametrize("count", [1, 16])
def test_simulations_are_what_the_search_makes(game, published, count):
    """Each visits the position once, wherever it goes from there."""
    _send(game, "simulations", count)
    _send(game, "hint")
    head = published.until(lambda head: head["hint"])
    assert head["simulations"] == count
    assert sum(head["advice"]["visits"].values()) == count
    _send(game, "simulations", MAX_SIMULATIONS + 1)
    _send(game, "hint")
    assert published.until(lambda head: head["hint"])["simulations"] == count


@pytest.mark.parametrize("side", [0, 1])
def test_a_whole_game_ends_with_a_result(game, published, side):
    """Whatever is played; and nothing can be moved after it, but a new game begun."""
    _send(game, "side", side)
    head = published.until(lambda head: head["side"] == side and head["step"] == side)
    while not head["over"]:
        step = head["step"]
        _send(game, "move", head["position"]["moves"][-1]["action"])
        head = published.until(
            lambda h, step=step: h["over"] or (h["step"] >= step + 2 and _mine(h))
        )
    assert head["result"] in (-1, 0, 1)
    assert head["position"]["moves"] in ([], ())
    _send(game, "move", 0)
    _send(game, "hint")
    assert published.until(lambda head: head["hint"])["over"]
    _send(game, "new")
    published.until(lambda head: head["step"] == 0)


def test_an_agent_without_opinions_is_refused(published, tmp_path):
    more = TrainOptions(num_envs=8, eval_episodes=0)
    train("random", "tic_tac_toe", steps=16, train_options=more, root=tmp_path, quiet=True)
    (path,) = tmp_path.glob("*/*/*")
    run = Run.open(path)
    for session in (GameSession, PlaybackSession):
        made = session(run, run.config(), published)
        try:
            head = published.until(lambda head: head["kind"] == "error")
            assert head["text"] == "the agent random cannot evaluate moves; choose another run"
        finally:
            made.worker.close(LIMIT)


def test_a_move_is_shown_before_the_agent_has_thought(game, published, monkeypatch):
    """The agent's search waits until the page has the person's move."""
    _send(game, "show", False)
    head = published.until(_mine)
    gate, search = threading.Event(), game._agent.advise

    def wait(*arguments):
        assert gate.wait(LIMIT)
        return search(*arguments)

    monkeypatch.setattr(game._agent, "advise", wait)
    move = head["position"]["moves"][4]
    _send(game, "move", move["action"])
    head = published.until(lambda head: head["step"] == 1)
    assert head["thinking"]
    assert head["moves"] == [[0, move["label"]]]
    gate.set()
    head = published.until(lambda head: head["step"] == 2)
    assert [side for side, _ in head["moves"]] == [0, 1]


def test_every_stage_of_the_training_can_be_watched(start, runs, published, tmp_path):
    """Each plays the same game with its own weights; then the newest again."""
    run, config = _copy(runs, tmp_path / "run")
    names = sorted(int(path.name) for path in run.weights.iterdir())
    assert (len(names), names[0]) == (11, 0)
    weights, saved = run.newest_weights(), [0, 50, 100]
    shutil.rmtree(run.weights)
    for times, step in enumerate(saved):
        changed = {name: weight * (1 + times) for name, weight in weights.items()}
        save_checkpoint(run.weights, step, changed, keep=3)
    session = PlaybackSession(run, config, published)
    try:
        head = published.until(lambda head: head["kind"] == "hello")
        assert (head["saved"], head["newest"], head["weights"]) == (saved, True, saved[-1])
        bars = {}
        for stage in (0, 50, None):
            _send(session, "weights", stage)
            _send(session, "weights", 17)  # there are none
            at = saved[-1] if stage is None else stage
            first = _frames(session, published, 3, 1)[0][0]
            assert (first["weights"], first["newest"]) == (at, stage is None)
            agent = load(f"{run.path}@{at}")
            row = make(config.env, 1, 3 + HELD_OUT_SEEDS, config.options).reset()
            bars[at] = first["bars"]
            assert first["bars"] == pytest.approx(agent.advise(row.obs)[0].q[0].tolist(), rel=1e-5)
        assert len({tuple(each) for each in bars.values()}) == 3
    finally:
        session.worker.close(LIMIT)


def test_a_film_is_made_of_frames_that_were_sent(start, published):
    for name, size, begin in (("pong", (420, 320), 0), ("tic_tac_toe", None, 2)):
        session = start(name)
        frames = [head["frame"] for head, _ in _frames(session, published, 4, 4, begin)]
        assert frames == sorted(set(frames))
        with av.open(io.BytesIO(session.clip(frames[1], frames[3]))) as film:
            pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert len(pictures) == frames[3] - frames[1] + 1
        assert size is None or pictures[0].shape[:2] == size
        with pytest.raises(RunError, match="not kept any more"):
            session.clip(frames[3] + 100, frames[3] + 200)
