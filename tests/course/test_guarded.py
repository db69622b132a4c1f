"""Launches between guards: wherever a learner's kernel loads or stores, the judge survives it and can tell."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from flashlab.course.checks import guarded
from flashlab.course.checks.guarded import Variant
from flashlab.course.grading import judge, tasks

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="addresses are watched by the interpreter alone")
FAR = 2**40  # numbers: no address there belongs to this process


@triton.jit
def axpy(X, Y, Out, a, n, BLOCK: tl.constexpr, LOAD: tl.constexpr, BESIDE: tl.constexpr, STORE: tl.constexpr, ADD: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    out = a * tl.load(X + LOAD + offsets, mask=inside) + tl.load(Y + offsets, mask=inside)
    if BESIDE:
        out += tl.load(Out + BESIDE + offsets, mask=inside)
    tl.store(Out + offsets, out, mask=inside)
    if STORE:
        tl.store(Out + STORE + offsets, out, mask=inside)
    if ADD:
        tl.atomic_add(Out + ADD + offsets, out, mask=inside)


def judged(LOAD=0, BESIDE=0, STORE=0, ADD=0):
    return judge(tasks("06")["6.1"], Variant(axpy, LOAD=LOAD, BESIDE=BESIDE, STORE=STORE, ADD=ADD))


def test_at_home_it_passes():
    assert judged().status == "passed"


@pytest.mark.parametrize("where", [FAR, -FAR, 4096 + 300])
def test_a_wild_load_is_nan(where):
    assert "Out is NaN" in judged(LOAD=where).difference


def test_what_lies_beside_an_output_is_nan_to_a_load():
    assert "Out is NaN" in judged(BESIDE=-300).difference


@pytest.mark.parametrize("how", ["STORE", "ADD"])
@pytest.mark.parametrize("where", [FAR, -FAR, 4096 + 300, -300])
def test_a_wild_store_is_told(how, where):
    assert "something was written beside" in judged(**{how: where}).difference


def test_where_triton_looks_otherwise_inside_the_bands_remain(monkeypatch):
    monkeypatch.setattr(interpreter, "interpreter_builder", object())
    assert guarded._inside_of_triton() is None
    monkeypatch.undo()
    monkeypatch.setattr(guarded, "_inside_of_triton", lambda: None)
    assert judged().status == "passed"
    assert "something was written beside" in judged(STORE=-300).difference
