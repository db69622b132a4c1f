"""Launches between guards: wherever a learner's kernel loads or stores, the judge survives it and can tell."""

import re

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from flashlab.course.checks import guarded, lesson_06_mistakes, lesson_07_mistakes, lesson_12_mistakes
from flashlab.course.checks.edited import edited
from flashlab.course.grading import judge, tasks

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="addresses are watched by the interpreter alone")
FAR = 2**40  # numbers: no address there belongs to this process


@triton.jit
def axpy(X, Y, Out, a, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    x = tl.load(X + offsets, mask=inside)
    out = a * x + tl.load(Y + offsets, mask=inside)
    tl.store(Out + offsets, out, mask=inside)


def judged(*changes):
    return judge(tasks("06")["6.1"], edited(axpy, *changes))


STORE = "    tl.store(Out + offsets, out, mask=inside)\n"


def test_at_home_it_passes():
    assert judged().status == "passed"


@pytest.mark.parametrize("where", [FAR, -FAR, 4096 + 300])
def test_a_wild_load_is_nan(where):
    assert "Out is NaN" in judged("X + offsets", f"X + ({where}) + offsets").difference


def test_what_lies_beside_an_output_is_nan_to_a_load():
    assert "Out is NaN" in judged(STORE, f"    out += tl.load(Out - 300 + offsets, mask=inside)\n{STORE}").difference


@pytest.mark.parametrize("how", ["store", "atomic_add"])
@pytest.mark.parametrize("where", [FAR, -FAR, 4096 + 300, -300])
def test_a_wild_store_is_told(how, where):
    assert "something was written beside" in judged(STORE, f"{STORE}    tl.{how}(Out + ({where}) + offsets, out, mask=inside)\n").difference


def test_where_triton_looks_otherwise_inside_the_bands_remain(monkeypatch):
    monkeypatch.setattr(interpreter, "interpreter_builder", object())
    assert guarded._inside_of_triton() is None
    monkeypatch.undo()
    monkeypatch.setattr(guarded, "_inside_of_triton", lambda: None)
    assert judged().status == "passed"
    assert "something was written beside" in judged(STORE, f"{STORE}    tl.store(Out - 300 + offsets, out, mask=inside)\n").difference


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("X + offsets", "X + 1 + offsets"), "Out is NaN: X is loaded past its end"),
        (("out, mask=inside", "out, mask=offsets < n - 1"), "Out was never written"),
        (("a * x", "a * x * (1 / (offsets - 1).to(tl.float32) * (offsets - 1))"), "Out is NaN, of inf − inf, 0 · inf, or 0 / 0"),
        (("a * x", "a * x.to(tl.float16)"), "nearly right: is something float16"),
        ((STORE, ""), "nothing was stored"),
        (("tl.load(X + offsets, mask=inside)", "X[offsets]"), "X is a pointer. Read with tl.load"),
        (("    tl.store", "    out[inside] = 1\n    tl.store"), "write x = tl.where(mask, y, x)"),
    ],
)
def test_what_went_wrong_is_told(changes, words):
    assert words in judged(*changes).difference


def test_a_mask_without_other_is_told():
    result = judge(tasks("07")["7.2"], edited(lesson_07_mistakes._forward, ", other=0.0", ""))
    assert "a load has a mask and no other=" in result.difference


def test_each_input_is_counted_by_itself():
    result = judge(tasks("07")["7.2"], next(m.wrong for m in lesson_07_mistakes.FORWARD_MISTAKES if m.name == "V loaded twice"))
    assert re.search(r"numbers of V were loaded, and [\d,]+ are needed; the ratio is 2", result.difference)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((lesson_07_mistakes.BEGINS, 'm = -float("inf")'), "Loop-carried variable m has initial type"),
        (("        m = m_new", "        m = m_new\n        if start_n > 5000:\n            break"), "`break`: unsupported AST node"),
    ],
)
def test_what_the_compiler_refuses_is_told_without_a_gpu(changes, words):
    for _ in range(2):  # a kernel that has run in the interpreter leaves Triton's language as it found it
        result = judge(tasks("07")["7.2"], edited(lesson_07_mistakes._forward, *changes))
        assert "Triton's compiler refuses it" in result.difference and words in result.difference
        assert judge(tasks("07")["7.2"], lesson_07_mistakes._forward).status == "passed"


@pytest.mark.parametrize(("changes", "words"), [
    (("a * x", "a * X"), "A pointer is an address, and not the numbers there"),
    (("block + tl.arange(0, BLOCK)", "tl.arange(block, block + BLOCK)"), "Both bounds of tl.arange must be constants"),
    (("tl.store(Out + offsets", "tl.store(Out"), "store at Out + offsets, an address for each"),
    (("tl.arange", "torch.arange"), "use Triton's, such as tl.exp and tl.arange"),
    (("inside = offsets < n", "inside = offsets < n\n    if offsets < n:\n        a *= 1"), "give them to tl.load and tl.store as mask="),
], ids=lambda value: "" if isinstance(value, tuple) else value)  # fmt: skip
def test_what_triton_says_of_its_inside_comes_with_what_to_do(changes, words):
    begins = ("    offsets = ", "    block = tl.program_id(0) * BLOCK\n    offsets = ")
    assert words in judge(tasks("06")["6.1"], edited(axpy, "tl.program_id(0) * BLOCK", "block", *begins, *changes)).difference


def test_a_vector_is_no_tile_of_a_product():
    product = edited(
        lesson_06_mistakes._matmul,
        "rows[:, None] * K + inner[None, :]",
        "rows * K + inner",
        "mask=(rows < M)[:, None] & (inner < K)[None, :]",
        "mask=inner < K",
    )
    assert "tl.dot takes tiles, with rows and columns" in judge(tasks("06")["6.3"], product).difference


def test_a_default_argument_is_no_refusal():
    kept = edited(lesson_07_mistakes._forward, "BLOCK_N: tl.constexpr\n", "BLOCK_N: tl.constexpr, IS_CAUSAL: tl.constexpr = False\n")
    assert judge(tasks("07")["7.2"], kept).status == "passed"


def test_a_change_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="'minus' is not in axpy"):
        edited(axpy, "minus", "plus")


def test_masks_joined_with_and_are_refused():
    joined = edited(axpy, "inside = offsets < n", "inside = (offsets < n) and (offsets >= 0)")
    assert "join masks with & and |" in str(judge(tasks("06")["6.1"], joined))


def test_a_condition_may_say_and():
    assert judged("    inside = offsets < n", "    if BLOCK > 0 and BLOCK < 2**20:\n        inside = offsets < n").status == "passed"


def test_past_a_table_of_integers_lies_a_number_that_leads_nowhere():
    gather = lesson_12_mistakes._gather
    past = edited(gather, "mask=keys < seqlen_k, other=0", "mask=keys >= 0, other=0")
    assert judge(tasks("12")["12.3"], gather).status == "passed"
    assert "Table is loaded past its end" in str(judge(tasks("12")["12.3"], past))
