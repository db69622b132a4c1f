"""The small GPT: the same loss whatever attention it is given."""

import functools

import pytest
import torch

from flashlab import attention
from flashlab.course import gpt

TINY = gpt.Size(layers=1, heads=2, width=32, context=24)
TEXT = b"the quick brown fox jumps over the lazy dog. " * 40
FLASH = functools.partial(attention, is_causal=True)


def losses(attend, steps=6):
    model = gpt.new_model(TINY, attend, seed=0, device="cpu")
    return gpt.train(model, gpt.batches(TEXT, TINY, batch=4, steps=steps, seed=1, device="cpu"))


def test_naive_and_flash_learn_the_same():
    naive, flash = losses(gpt.naive_attention), losses(FLASH)
    assert naive == pytest.approx(flash, abs=1e-4)
    assert flash[-1] < flash[0] - 0.5


def test_batches_depend_on_the_seed_alone():
    first, second = (list(gpt.batches(TEXT, TINY, 2, 3, seed=5, device="cpu")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (2, TINY.context + 1)


def test_no_byte_sees_the_future():
    model = gpt.new_model(TINY, FLASH, seed=0, device="cpu")
    tokens = torch.randint(256, (1, TINY.context))
    changed = tokens.clone()
    changed[0, 12:] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0, :12], model(changed)[0, :12])
