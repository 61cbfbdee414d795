"""Training, evaluation and run folders; the Python API is `train` and `load`."""

from ludus.training.train import load, train

__all__ = ["load", "train"]
