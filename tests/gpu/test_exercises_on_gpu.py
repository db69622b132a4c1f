"""Exercises in Triton on a GPU: judged in the interpreter as everywhere, and what is right there must be right when compiled, too."""

import pytest
import triton
import triton.language as tl

from flashlab.course.grading import judge, tasks
from flashlab.course.submission import grade_notebook
from tests.course.test_exercises import notebook_of

LESSONS = ("06", "07", "08", "12")
MISTAKES = [(task, mistake) for lesson in LESSONS for task in tasks(lesson).values() for mistake in task.mistakes]


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_solution_earns_everything_and_the_stub_nothing(lesson, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    solved = grade_notebook(notebook_of("solutions", lesson), seed=3)
    assert solved.points == 100 and not solved.trouble
    compiled = {path.stem for path in tmp_path.rglob("*.cubin")}
    kernels = {task.function for task in tasks(lesson).values() if task.meaning}
    assert compiled >= kernels, "the solution was to run on the GPU as well"
    stub = grade_notebook(notebook_of("exercises", lesson), seed=3)
    assert stub.points == 0 and not stub.trouble and {result.status for result in stub.results} == {"not attempted"}


@pytest.mark.parametrize(("task", "mistake"), MISTAKES, ids=lambda value: getattr(value, "number", None) or value.name.replace(" ", "_"))
def test_each_known_mistake_is_named(task, mistake):
    result = judge(task, mistake.wrong)
    assert result.status == "failed" and result.mistake == mistake.name, str(result)


@triton.jit
def product_in_tf32(A, B, Out, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        a = tl.load(A + rows * K + inner[None, :], mask=(rows < M) & (inner[None, :] < K), other=0.0)
        b = tl.load(B + inner[:, None] + columns * K, mask=(inner[:, None] < K) & (columns < N), other=0.0)
        acc += tl.dot(a, b, input_precision="tf32")
    tl.store(Out + rows * N + columns, acc, mask=(rows < M) & (columns < N))


def test_what_only_a_gpu_shows_is_told():
    result = judge(tasks("06")["6.3"], product_in_tf32)
    assert result.status == "failed" and "not when compiled for this GPU" in result.difference, str(result)
