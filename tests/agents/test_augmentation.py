"""Random shifts and intensities of the images of an update."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from ludus.agents.agent import EnvSpec
from ludus.agents.augmentation import Augmentation
from ludus.agents.capture import capture
from ludus.agents.dqn import build
from ludus.agents.dqn_config import DQNConfig
from ludus.envs.errors import ConfigError
from ludus.networks.heads import NO_NOISE

CPU = torch.device("cpu")
IMAGES = spaces.Box(0, 255, (2, 20, 20), np.uint8)
CONFIG = DQNConfig(
    encoder="dqn2013",
    head_hidden=8,
    batch_size=8,
    replay_size=200,
    learning_starts=0,
    replay_ratio=1.0,
    learning_rate=1e-3,
)


def _image(generator, t, b):
    return generator.integers(0, 256, IMAGES.shape, np.uint8)


def _filled(random_stream, *, captured=False, seed=0, **changes):
    config = replace(CONFIG, **changes)
    spec = EnvSpec(IMAGES, spaces.Discrete(4), 2)
    agent = build(config, spec, device=CPU, seed=seed, steps=1_000)
    if captured:
        capture(agent)
    stream = random_stream(2, 1, 3, _image, actions=4)
    for _ in range(30):
        agent.observe(stream.step())
    return agent


def test_a_shift_is_a_crop_of_the_padded_image():
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(0, 256, (50, 3, 9, 11), dtype=torch.uint8, generator=generator)
    numbers = Augmentation(4, 0.0).sample(1, 50, generator, CPU)[0]
    moved = Augmentation(4, 0.0)(obs, numbers)
    assert moved.dtype == torch.uint8
    padded = F.pad(obs.float(), (4, 4, 4, 4), mode="replicate")
    seen = set()
    for i in range(50):
        top, left = (int(9 * x) for x in numbers[i, :2].tolist())
        assert torch.equal(moved[i].float(), padded[i, :, top : top + 9, left : left + 11])
        seen |= {top, left}
    assert seen == set(range(9))


def test_intensity_by_hand():
    obs = torch.full((4, 1, 2, 2), 100, dtype=torch.uint8)
    numbers = torch.tensor([[0.5, 0.5, z] for z in (0.0, 1.0, -1.0, 9.0)])
    found = Augmentation(0, 0.05)(obs, numbers)[:, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([100.0, 105.0, 95.0, 110.0]))


@pytest.mark.parametrize("changes", [{"random_shift": 4}, {"intensity_noise": 0.05}], ids=str)
@pytest.mark.parametrize("captured", [False, True])
def test_it_changes_what_is_learned_and_a_resume_is_exact(random_stream, changes, captured):
    agent, resumed = (
        _filled(random_stream, captured=captured, seed=seed, **changes) for seed in (0, 1)
    )
    plain = _filled(random_stream, captured=captured)
    agent.study(3, 0.0)
    plain.study(3, 0.0)
    assert (agent.learner.flat - plain.learner.flat).abs().max() > 1e-5
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, resumed):
        each.study(3, 0.0)
    assert torch.equal(agent.learner.flat, resumed.learner.flat)


def test_a_captured_update_augments_as_one_that_is_not(random_stream):
    changes = {"random_shift": 4, "intensity_noise": 0.05}
    one, two = (_filled(random_stream, captured=captured, **changes) for captured in (False, True))
    for each in (one, two):
        each.study(4, 0.0)
    torch.testing.assert_close(one.learner.flat, two.learner.flat, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_augmented_images(random_stream):
    agent = _filled(random_stream, random_shift=3, intensity_noise=0.1)
    numbers = agent.randomness()
    metrics = agent.gradients(*numbers)[0]
    batch = agent.memory.sample(numbers.uniforms).batch
    obs, next_obs = (
        Augmentation(3, 0.1)(images, each)
        for images, each in zip((batch.obs, batch.next_obs), numbers.augmentation, strict=True)
    )
    q = agent._forward(agent.network, obs, NO_NOISE)[0].q[0]
    following = agent._forward(agent.target.network, next_obs, NO_NOISE)[0].q[0].amax(-1)
    target = batch.reward + batch.discount * following
    error = target - q.gather(1, batch.action.unsqueeze(1)).squeeze(1)
    loss = F.huber_loss(error, torch.zeros_like(error), delta=1.0)
    torch.testing.assert_close(metrics[0], loss.detach(), rtol=1e-4, atol=1e-5)


def test_each_row_that_an_auxiliary_loss_looks_at_is_augmented_by_its_own_numbers(random_stream):
    agent = _filled(
        random_stream, random_shift=3, intensity_noise=0.1, auxiliary="spr", spr_steps=2
    )
    seen, loss = [], agent._auxiliary.loss

    def spy(latents, obs, following):
        seen.append((obs, following))
        return loss(latents, obs, following)

    agent._auxiliary.loss = spy
    numbers = agent.randomness()
    agent.gradients(*numbers)
    sample = agent.memory.sample(numbers.uniforms)
    (obs, following), augmentation = seen[0], Augmentation(3, 0.1)
    assert torch.equal(obs, augmentation(sample.batch.obs, numbers.augmentation[0]))
    plain = agent.memory.following(sample.indices, 2)
    for k, n in np.ndindex(2, CONFIG.batch_size):
        image = plain.obs[plain.place[k, n]].unsqueeze(0)
        expected = augmentation(image, numbers.augmentation[2 + k, n].unsqueeze(0))
        assert torch.equal(following.obs[following.place[k, n]], expected[0])
    assert len(numbers.augmentation) == 4
    assert len(numbers.augmentation.flatten(0, 1).unique(dim=0)) == 4 * CONFIG.batch_size


@pytest.mark.parametrize("name", ["random_shift", "intensity_noise"])
def test_vectors_are_refused_in_one_sentence(name):
    config = replace(CONFIG, encoder="mlp", **{name: 1})
    spec = EnvSpec(spaces.Box(-9, 9, (3,), np.float32), spaces.Discrete(4), 2)
    with pytest.raises(ConfigError, match=rf"{name} is for images; .* \[3\]; leave it out"):
        build(config, spec, device=CPU, seed=0, steps=1_000)
