import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    """Small tensors: a second thread only waits. No test leans on the seed of another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
