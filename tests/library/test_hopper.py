"""Which calls take the kernels that are scheduled by hand for Hopper GPUs. The kernels themselves need such a GPU: tests/gpu."""

import warnings
from dataclasses import replace

import pytest
import torch

triton = pytest.importorskip("triton")  # no build for macOS

from flashlab.attention import described  # noqa: E402
from flashlab.explain import _bytes_by_hand  # noqa: E402
from flashlab.kernels import hopper, paths  # noqa: E402
from flashlab.kernels.hopper import backward as hopper_backward  # noqa: E402
from flashlab.kernels.hopper.shaping import _added_to_products  # noqa: E402
from tests.compiling import as_if_on  # noqa: E402
from tests.gpu import hazards  # noqa: E402


@pytest.fixture(autouse=True)
def without_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)


def call(head_dim=128, seqlen=2048, dtype=torch.bfloat16, lay_out=lambda x: x, value_dim=None, batch=64, groups=1, **options):
    """(query, key, value, spec, extras), and grad_out. Shapes alone: meta tensors take no memory."""
    sizes = ((16 * groups, head_dim), (16, head_dim), (16, value_dim or head_dim))
    query, key, value = (lay_out(torch.empty(batch, heads, seqlen, size, dtype=dtype, device="meta")) for heads, size in sizes)
    return described(query, key, value, **options), torch.empty(*query.shape[:3], value.shape[3], dtype=dtype, device="meta")


SERVED = [
    (dict(), True),
    (dict(dtype=torch.float16, is_causal=True), True),
    (dict(window=(2100, 0), seqlen=4096), True),
    (dict(window=(1100, 0)), False),
    (dict(seqlen=512, batch=256), False),
    (dict(lay_out=lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)), True),
    (dict(scale=0.3), True),
    (dict(head_dim=64), True),
    (dict(sinks=torch.zeros(16, device="meta"), window=(2100, 0), seqlen=4096), True),
    (dict(alibi_slopes=torch.ones(16, device="meta"), is_causal=True), True),
    (dict(attn_mask=torch.ones(64, 1, 1, 2048, dtype=torch.bool, device="meta")), True),
    (dict(attn_mask=torch.ones(64, 1, 1, 2048, device="meta").expand(-1, -1, 2048, -1)), True),  # as transformers makes it
]
NOT_SERVED = {
    "float32": dict(dtype=torch.float32),
    "head dim 96 (served: 64, 128)": dict(head_dim=96),
    "value head dim 64": dict(value_dim=64),
    "511 queries": dict(seqlen=511),
    "fewer than 1024 keys": dict(head_dim=64, is_causal=True, seqlen=2000),
    "fewer than 256 keys": dict(window=(500, 0)),
    "1e+11 operations": dict(batch=2),
    "a scale that is not positive": dict(scale=-0.1),
    "multiples of 16 bytes": dict(lay_out=lambda x: torch.empty(*x.shape[:3], x.shape[3] + 1, dtype=x.dtype, device="meta")[..., :-1]),
    "a feature beyond": dict(softcap=3.0),
    "ALiBi without a causal mask": dict(alibi_slopes=torch.ones(16, device="meta")),
    "ALiBi without": dict(alibi_slopes=torch.ones(16, device="meta"), window=(2000, 1)),
    "a mask that is not one of keys": dict(attn_mask=torch.ones(2048, 2048, dtype=torch.bool, device="meta")),
    "grouped heads whose masks differ": dict(attn_mask=torch.ones(1, 32, 1, 2048, device="meta"), groups=2, enable_gqa=True),
    "a mask that is not": dict(attn_mask=torch.ones(2048, 1, dtype=torch.bool, device="meta")),
}
FEATURES = [
    dict(dropout_p=0.5, seed=1),
    dict(mask_mod=lambda batch, head, i, j: i >= j),
    dict(bias_mod=lambda batch, head, i, j: (j - i) * 0.1),
]


@pytest.mark.parametrize(("options", "backward"), SERVED)
def test_is_served(options, backward):
    arguments, grad_out = call(**options)
    with as_if_on("sm_90", None):
        assert hopper.serves("forward", *arguments) and hopper.serves("backward", *arguments, grad_out) is backward


@pytest.mark.parametrize(("why", "options"), [*NOT_SERVED.items(), *(("a feature beyond", feature) for feature in FEATURES)])
def test_is_not_served_and_says_why(why, options):
    arguments, _ = call(**options)
    with as_if_on("sm_90", None):
        assert why in hopper.why_not("forward", *arguments) and not hopper.serves("forward", *arguments)


def test_the_count_of_jobs_and_a_mask_are_said_with_the_memory():
    (taken, _), (not_taken, _) = call(), call(head_dim=96)
    masked, _ = call(seqlen=2050, attn_mask=torch.ones(64, 1, 1, 2050, dtype=torch.bool, device="meta"))
    with as_if_on("sm_90", None):
        assert _bytes_by_hand(*taken) == 4 and _bytes_by_hand(*not_taken) == 0
        assert _bytes_by_hand(*masked) == 4 + 64 * 2176 * 4  # in float32, to the end of a tile


@pytest.mark.parametrize("mask", [
    torch.arange(300)[None, None, None] % 7 > 1,
    torch.randn(2, 3, 1, 300),
    torch.randn(2, 1, 300, dtype=torch.bfloat16)[:, :, None].expand(-1, -1, 40, -1),
    torch.randn(300, 2).T[:, None, None],
], ids=["bool", "by head", "expanded", "strided"])  # fmt: skip
def test_what_a_mask_adds_to_products(mask):
    torch.set_default_dtype(torch.float64)  # which is nothing to the kernels
    try:
        added = _added_to_products(mask, scale=0.25)
    finally:
        torch.set_default_dtype(torch.float32)
    assert added.shape == (*mask.shape[:2], 384) and added.dtype == torch.float32 and (added[..., 300:] == -torch.inf).all()
    mask = mask[:, :, 0]
    expected = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else 4 * mask.float()
    assert torch.equal(added[..., :300], expected)


def test_the_backward_pass_looks_at_its_own_gradient():
    arguments, grad_out = call()
    shifted = torch.empty(*grad_out.shape[:3], 129, dtype=torch.bfloat16, device="meta")[..., 1:]
    with as_if_on("sm_90", None):
        assert hopper.serves("backward", *arguments, grad_out)
        assert "multiples of 16 bytes" in hopper.why_not("backward", *arguments, shifted)


def test_who_does_not_ask_for_equal_bits_gets_these_kernels_earlier():
    arguments, grad_out = call(head_dim=64, seqlen=1024)
    any_order, _ = call(head_dim=64, seqlen=1024, deterministic=False)
    with as_if_on("sm_90", None):
        assert "fewer than 2048 keys" in hopper.why_not("backward", *arguments, grad_out)
        assert hopper.serves("backward", *any_order, grad_out)


@pytest.mark.parametrize(("options", "pays"), [
    (dict(head_dim=64, seqlen=4096), True),
    (dict(head_dim=64, seqlen=8192), False),
    (dict(head_dim=64, seqlen=8192, is_causal=True), True),  # a row sees half of them
    (dict(head_dim=64, seqlen=16384, is_causal=True), False),
    (dict(head_dim=64, seqlen=16384, window=(3000, 0)), True),
    (dict(head_dim=128, seqlen=16384), True),
], ids=str)  # fmt: skip
def test_sums_in_any_order_where_it_pays_alone(options, pays):
    (*arguments, extras), grad_out = call(**options, deterministic=False)
    with as_if_on("sm_90", None):
        backward = paths.backward(*arguments, extras, grad_out)
    assert backward.func is hopper_backward.backward
    assert backward.keywords == dict(spec=replace(arguments[3], deterministic=not pays), extras=extras)


def test_torch_can_insist_on_equal_bits():
    torch.use_deterministic_algorithms(True)
    try:
        arguments, grad_out = call(head_dim=64, seqlen=1024, deterministic=False)
    finally:
        torch.use_deterministic_algorithms(False)
    with as_if_on("sm_90", None):
        assert "fewer than 2048 keys" in hopper.why_not("backward", *arguments, grad_out)


def test_hazards_where_work_is_handed_out_are_told_from_others():
    lines = (hazards.FOLDER / "fused.py").read_text(encoding="utf-8").splitlines()
    head, hand_out, step = (
        1 + next(n for n, line in enumerate(lines) if words in line)
        for words in ("def fused_kernel(", "gl.warp_specialize(", "p = gl.exp2(")
    )

    def report(written, read, file="fused.py"):
        return [
            "========= Error: Potential RAW hazard detected at __shared__ 0x26 in block (5,0,0) :",
            f"=========     Write Thread (31,0,0) at some_kernel+0x62a0 in {file}:{written}",
            f"=========     Read Thread (160,0,0) at some_kernel+0x610 in {file}:{read}",
            "=========     Current Value : 3",
            "========= ",
        ]

    end = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)"
    passed, others, whole = hazards.sort_out([*report(hand_out, head), *report(hand_out, step), "done", end])
    assert passed == {"fused.py": 1} and len(others) == 1 and f"fused.py:{step}" in others[0] and whole
    assert len(hazards.sort_out(report(hand_out - 1, head))[1]) == 1  # a line before it is not it
    assert len(hazards.sort_out(report(len(lines) + 1, head))[1]) == 1
    assert hazards.sort_out([*report(hand_out, head), end])[1:] == ([], False)  # the calls broke off
    assert hazards.sort_out([*report(hand_out, head), "done"])[1:] == ([], False)

    lines = (hazards.FOLDER / "forward.py").read_text(encoding="utf-8").splitlines()
    put_down, read, other = (
        1 + next(n for n, line in enumerate(lines) if words in line)
        for words in (".store(gl.full([1], number", "number = gl.sum(", "p = gl.exp2(")
    )
    assert hazards.sort_out(report(put_down, read, "forward.py"))[:2] == ({"forward.py": 1}, [])
    for written_at, read_at in ((put_down, other), (other, read), (read, put_down), (put_down, put_down)):
        assert len(hazards.sort_out(report(written_at, read_at, "forward.py"))[1]) == 1


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_no_other_gpu_is_served(target):
    arguments, _ = call()
    with as_if_on(target, None):
        assert not hopper.serves("forward", *arguments)


def test_the_interpreter_is_not_served(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    arguments, _ = call()
    with as_if_on("sm_90", None):
        assert "interpreter" in hopper.why_not("forward", *arguments)


def test_another_triton_is_told_once(monkeypatch):
    monkeypatch.setattr(hopper, "triton_version", lambda: (4, 0))
    hopper._say_untested.cache_clear()
    arguments, _ = call()
    with as_if_on("sm_90", None):
        with pytest.warns(RuntimeWarning, match="portable"):
            assert not hopper.serves("forward", *arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not hopper.serves("forward", *arguments)
