"""Kernels that Triton would compile, run in its interpreter: exercises are judged as they are without a GPU, and compiling still works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from flashlab.course.interpreter import mend

SCRIPT = """
import torch, triton, triton.language as tl
from triton.runtime.jit import JITFunction
from flashlab.course.compiler import refusal
from flashlab.course.interpreter import interpreted
from flashlab.course.grading import judge, tasks
from flashlab.course.submission import grade_notebook
from tests.course.test_exercises import notebook_of

@triton.jit
def largest_and_sum(x):
    return x.max(axis=1) + tl.sum(x, axis=1)

@triton.jit
def rows(X, Out, M: tl.constexpr, N: tl.constexpr):
    x = tl.load(X + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    tl.store(Out + tl.arange(0, M), largest_and_sum(x) + tl.cdiv(5, 2) + 0 * tl.rand(3, tl.arange(0, M)))

assert isinstance(rows, JITFunction) and isinstance(tl.sum, JITFunction)
x, out = torch.randn(8, 16), torch.zeros(8)
for _ in range(2):
    with interpreted(rows) as slow:
        slow[(1,)](x, out, 8, 16)
    torch.testing.assert_close(out, x.amax(1) + x.sum(1) + 3)
    out.zero_()

for lesson in ("06", "07", "08"):
    assert grade_notebook(notebook_of("solutions", lesson), seed=3).points == 100
    for task in tasks(lesson).values():
        for mistake in task.mistakes[:2]:
            result = judge(task, mistake.wrong)
            assert result.status == "failed" and result.mistake == mistake.name, (task.number, mistake.name, str(result))

assert isinstance(rows, JITFunction) and isinstance(tl.sum, JITFunction) and isinstance(largest_and_sum, JITFunction)
assert refusal(rows, (x, out), dict(M=8, N=16)) == ""
assert "arange's range must be a power of 2" in refusal(rows, (x, out), dict(M=8, N=12))
signature = {"X": "*fp32", "Out": "*fp32", "M": "constexpr", "N": "constexpr"}
source = triton.compiler.ASTSource(fn=rows, signature=signature, constexprs={(2,): 8, (3,): 16})
target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
assert "st.global" in triton.compile(source, target=target).asm["ptx"]
"""


def test_exercises_are_judged_and_kernels_compile_after_it(tmp_path):
    script = tmp_path / "script.py"  # kernels are read from their file
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= dict(CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(root), TRITON_CACHE_DIR=str(tmp_path / "cache"))
    run = subprocess.run([sys.executable, str(script)], env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


@triton.jit
def total(X, n, BLOCK: tl.constexpr):
    found = 0.0
    for start in range(0, n, BLOCK):
        found += tl.sum(tl.load(X + start + tl.arange(0, BLOCK)))
    tl.store(X, found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel is compiled there")
def test_range_takes_an_argument_with_the_index_of_triton_36(monkeypatch):
    def without_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", refuse)

    def refuse(self):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    patch = interpreter._patch_lang_tensor
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", without_index)
    with pytest.raises(Exception, match="only 0-dimensional"):
        total[(1,)](torch.ones(64), 48, 16)
    mend()
    x = torch.ones(64)
    total[(1,)](x, 48, 16)
    assert x[0] == 48
