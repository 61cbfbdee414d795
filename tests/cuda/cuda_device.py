"""Which CUDA device the tests here use, found out without importing torch if it is simulated."""

import importlib.util
import shutil
import sys
from pathlib import Path

_torch = importlib.util.find_spec("torch")
assert _torch is not None
assert _torch.origin is not None
SIMULATED = not list((Path(_torch.origin).parent / "lib").glob("*torch_cuda*"))
REASON = ""  # to skip all tests

if SIMULATED and "torch" in sys.modules:
    REASON = "the simulator is loaded before torch, in a process of its own: pytest tests/cuda"
elif SIMULATED and shutil.which("g++") is None:
    REASON = "the simulator needs g++"
elif not SIMULATED:
    import torch

    if not torch.cuda.is_available():
        REASON = "this build of torch is for CUDA, and sees no GPU"
