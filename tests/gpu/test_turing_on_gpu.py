"""What a T4 would compute: PTX for sm_75, through the driver of a newer GPU, judged as everything else is."""

import itertools

import pytest
import torch

from flashlab import attention
from tests.gpu.turing_by_jit import on_a_t4
from tests.protocol import FEATURES, Case, assert_as_good_as_plain, attention_and_gradients

PLAIN = [
    Case(sq, sk, head_dim, is_causal, heads=4, heads_kv=2)
    for (sq, sk), head_dim, is_causal in itertools.product([(113, 203), (256, 256), (300, 70)], (40, 64, 96, 128), (False, True))
]
WITH_FEATURES = [Case(150, 170, head_dim, heads=4, heads_kv=2, features=(feature,)) for feature in FEATURES for head_dim in (64, 128)]


@pytest.mark.parametrize("case", PLAIN + WITH_FEATURES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case):
    tensors, options = case.tensors(torch.float16, "cuda"), case.options(torch.float16, "cuda")
    with on_a_t4():
        ours = attention_and_gradients(attention, tensors, options)
    assert_as_good_as_plain(case, ours, tensors)
