"""Without a GPU, Triton runs in its interpreter. That must be decided before Triton is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
