"""Without a GPU, Triton runs in its interpreter. That must be decided before Triton is first imported."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

# Checks remember what was reached: not among the progress of whoever runs the tests.
os.environ["FLASHLAB_PROGRESS"] = str(Path(tempfile.mkdtemp()) / "progress.json")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    """Tests change what kernels a call takes: none sees what was chosen for a call of another's."""
    from flashlab.attention import forget

    forget()
