"""These tests need a real GPU: what only ran in the interpreter is not known to work."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.exit("tests/gpu needs a GPU; `flashlab doctor` says what this machine has.", returncode=1)
