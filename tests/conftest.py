"""Without a GPU, Triton runs in its interpreter. That must be decided before Triton is first imported."""

import os
import tempfile
from pathlib import Path

import torch

# Checks remember what was reached: not among the progress of whoever runs the tests.
os.environ["FLASHLAB_PROGRESS"] = str(Path(tempfile.mkdtemp()) / "progress.json")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
