"""Runs as users name them, extend them and list them."""

import json
import os

import pytest

import ludus
from ludus.cli.main import main
from ludus.envs.errors import RunError
from ludus.training.find_run import find_run
from ludus.training.run import Run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three runs in `runs`, the newest of them a PPO."""
    folder = tmp_path_factory.mktemp("root") / "inner"  # beside no other test's folder
    folder.mkdir()
    for agent, env in [
        ("dqn", "CartPole-v1"),
        ("dqn", "CartPole-v1"),
        ("random", "Acrobot-v1"),
        ("ppo", "CartPole-v1"),
    ]:
        ludus.train(agent, env, root=folder / "runs", steps=300, eval_episodes=1, quiet=True)
    for age, path in enumerate(sorted(folder.glob("runs/*/*/*/*.json"), key=os.path.getmtime)):
        os.utime(path, (age, age))
    return folder


@pytest.fixture(autouse=True)
def _there(root, monkeypatch):
    monkeypatch.chdir(root)


def _run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_run_is_found_by_what_a_person_types(root):
    ppo = next(root.glob("runs/CartPole-v1/ppo/*"))
    for text in ("latest", "runs/CartPole-v1/ppo", "CartPole-v1/p", "*/ppo/*", "runs/*/ppo/*"):
        assert find_run(text).resolve() == ppo, text
    assert find_run(ppo) == ppo
    assert find_run("Acro").parts[1:3] == ("Acrobot-v1", "random")
    one = next(root.glob("runs/Acrobot-v1/*/*"))
    assert find_run(one.relative_to(root)) == one.relative_to(root)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("CartPole-v1/dqn", r"may be any of 2 runs; the newest of them is runs/CartPole-v1/dqn/0"),
        ("runs/*/dqn/*", "may be any of 2 runs"),
        ("CartPole-v2", "is not a run"),
        ("", "is not a run"),
        ("runs", "may be any of 4 runs"),
        ("../*", "is not a run"),
    ],
)
def test_what_names_no_run_or_several_is_one_sentence(text, sentence):
    with pytest.raises(RunError, match=sentence):
        find_run(text)


def test_the_latest_of_no_runs(tmp_path):
    with pytest.raises(RunError, match=r"no run in .* yet"):
        find_run("latest", tmp_path)


def test_every_verb_takes_such_a_name(capsys, root):
    code, out, _ = _run(capsys, "evaluate", "latest", "--episodes", "1", "--json")
    assert (code, json.loads(out)["env"]) == (0, "CartPole-v1")
    words = ("record", "CartPole-v1/ppo", "--max-steps", "3", "--json")
    code, out, _ = _run(capsys, *words)
    assert code == 0
    assert (root / json.loads(out)["video"]).is_file()


def test_runs_are_listed_filtered_sorted_and_copied_from(capsys, root):
    _, out, _ = _run(capsys, "list", "runs")
    paths = [line.split()[-1] for line in out.splitlines()[1:]]
    assert {str(find_run(path)) for path in paths} == set(paths)
    assert paths[-1] == str(find_run("latest"))
    _, out, _ = _run(capsys, "list", "runs", "--env", "cartpole", "--agent", "dqn", "--json")
    rows = json.loads(out)["runs"]
    assert [(row["env"], row["agent"]) for row in rows] == [("CartPole-v1", "dqn")] * 2
    _, out, _ = _run(capsys, "list", "runs", "--sort", "score", "--json")
    scores = [row["score"] for row in json.loads(out)["runs"]]
    assert scores == sorted(scores)
    _, out, _ = _run(capsys, "list", "runs", "--state", "running")
    assert out == "no such runs in runs\n"


def test_a_finished_run_is_extended(capsys):
    run = Run(find_run("CartPole-v1/ppo"))
    code, out, err = _run(capsys, "train", "--resume", "CartPole-v1/ppo")
    assert code == 0
    assert "has finished, with 3" in err
    assert "mean return" in out
    words = ("--steps", "1e3", "--entropy-coef", "0.02", "--quiet")
    code, _, _ = _run(capsys, "train", "--resume", "CartPole-v1/ppo", *words)
    assert code == 0
    config = run.config()
    assert (config.train.steps, config.config.entropy_coef) == (1_000, 0.02)
    assert run.status().env_steps >= 1_000
    (entry,) = json.loads((run.path / "config.json").read_text())["history"]
    assert entry["changed"] == {"steps": [300, 1_000], "entropy_coef": [0.0, 0.02]}
    assert entry["env_steps"] < 400


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--seed 3", "seed cannot change"),
        ("--stack 2", "no option --stack"),
        ("--total-timesteps 5000", "Ludus has steps"),
        ("--steps 1.25e1", "1.25e1"),
        ("--learning-rat 1", "did you mean --learning-rate"),
    ],
)
def test_what_a_resume_cannot_take_is_one_sentence(capsys, words, sentence):
    code, _, err = _run(capsys, "train", "--resume", "CartPole-v1/ppo", *words.split())
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1


def test_a_resume_names_its_run(capsys):
    code, _, err = _run(capsys, "train", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "--resume latest" in err


def _config_of(capsys, *words):
    more = ("--steps", "200", "--eval-episodes", "0", "--quiet", "--json", "--run-dir", "other")
    code, out, err = _run(capsys, "train", *words, *more)
    assert code == 0, err
    return Run(find_run(json.loads(out)["run"])).config()


def test_a_file_gives_the_settings_and_the_options_replace_them(capsys, tmp_path):
    file = tmp_path / "my.json"
    settings = {"agent": "ppo", "env": "CartPole-v1", "hidden": [8], "num_envs": 2, "gamma": 0.5}
    file.write_text(json.dumps(settings | {"max_episode_steps": 30}))
    config = _config_of(capsys, "--config", str(file), "--gamma", "0.9")
    assert (config.agent, config.env) == ("ppo", "CartPole-v1")
    assert (config.config.hidden, config.config.gamma, config.train.num_envs) == ((8,), 0.9, 2)
    assert config.protocol["max_episode_steps"] == 30
    config = _config_of(capsys, "ppo", "Acrobot-v1", f"--config={file}")
    assert (config.env, config.config.gamma) == ("Acrobot-v1", 0.5)


def test_the_config_of_a_run_starts_another(capsys):
    run = Run(find_run("CartPole-v1/ppo"))
    config = _config_of(capsys, "--config", str(run.path / "config.json"), "--seed", "7")
    assert config.config == run.config().config
    assert config.train.seed == 7
    assert config == _config_of(capsys, "--config", str(run.path), "--seed", "7")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"agent": "ppo", "env": "CartPole-v1", "gama": 1}', "did you mean gamma"),
        ('{"agent": "ppo", "env": "CartPole-v1", "gamma": "x"}', "gamma is 'x'"),
        ('{"agent": "ppo"}', "needs an agent and an env"),
        ('{"agent": "ppo", "env": "their_envs:Env-v0"}', "names the module their_envs"),
        ('{"agent": "ppo", "env": "CartPole-v1", "encoder": "their_nets:N"}', "module their_nets"),
        ('{"agent": 5, "env": "CartPole-v1"}', "must be text"),
        ('{"agent": "ppo", "env": "CartPole-v1", "wrapper": null}', "must be text"),
        ('{"config_type": "x", "train": [1]}', "is no config.json of a run"),
        ('{"config_type": "DQNConfig", "train": {}, "options": {}, "config": {}}', "must be text"),
        ("[1]", "holds no JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(capsys, tmp_path, content, sentence):
    (tmp_path / "file").write_text(content)
    code, _, err = _run(capsys, "train", "--config", str(tmp_path / "file"), "--run-dir", "other")
    assert (code, err.count("\n")) == (2, 1), err
    assert sentence in err
