"""The way to Turing's tensor cores: what is rewritten, what is refused, and what comes out of the assembler. No T4 is needed."""

import pytest
import torch

pytest.importorskip("triton")

from flashlab.kernels import configs, launch, turing

MMA = (
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
    "{ %r1, %r2, %r3, %r4 }, { %r5, %r6, %r7, %r8 }, { %r9, %r10 }, { %r11, %r12, %r13, %r14 };"
)


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch):
    monkeypatch.setattr(turing, "_refused", [])


def test_a_product_becomes_its_two_halves():
    first, second = turing.rewrite(MMA).split("\n\t")
    k8 = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"
    assert first == f"{k8} {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%r9}}, {{%r11, %r12, %r13, %r14}};"
    assert second == f"{k8} {{%r1, %r2, %r3, %r4}}, {{%r7, %r8}}, {{%r10}}, {{%r1, %r2, %r3, %r4}};"


def lanes(fragment, rows):
    """Which (row, column) each lane of a warp holds in register `fragment` of a tile with two 16-bit numbers a register (PTX ISA, mma)."""
    lane = torch.arange(32)
    row = lane // 4 + (8 if rows == 16 and fragment % 2 else 0)
    first = lane % 4 * 2 + 8 * (fragment // 2 if rows == 16 else fragment)
    return row, first


def test_the_halves_are_the_product():
    """Lane by lane: what m16n8k16 reads of A and B is what the two m16n8k8 read, and both sum over all 16 columns once."""
    a, b = torch.randn(16, 16), torch.randn(8, 16)  # b: columns down
    total = torch.zeros(16, 8)
    for fragments_a, fragment_b in (((0, 1), 0), ((2, 3), 1)):
        half_a, half_b = torch.zeros(16, 8), torch.zeros(8, 8)
        for fragment in fragments_a:
            row, first = lanes(fragment, 16)
            for n in (0, 1):
                half_a[row, first % 8 + n] = a[row, first + n]
        row, first = lanes(fragment_b, 8)
        for n in (0, 1):
            half_b[row, first % 8 + n] = b[row, first + n]
        total += half_a @ half_b.T
    torch.testing.assert_close(total, a @ b.T)


def test_a_packed_conversion_becomes_two_and_a_move():
    """The first source of cvt.rn.f16x2.f32 is the upper half (PTX ISA, cvt); mov.b32 takes the lower one first."""
    expected = "{ .reg .b16 lo, hi; cvt.rn.f16.f32 lo, %r3; cvt.rn.f16.f32 hi, %r2; mov.b32 %r1, {lo, hi}; }"
    assert turing.rewrite("cvt.rn.f16x2.f32 \t%r1, %r2, %r3;") == expected


@pytest.mark.parametrize(
    "text",
    [
        MMA.replace("f32.f16.f16.f32", "f32.bf16.bf16.f32"),
        MMA.replace("m16n8k16", "m16n8k32"),
        MMA.replace("%r9, %r10", "%r9"),
        MMA.replace("row.col", "row.row"),
        "cvt.rn.bf16x2.f32 %r1, %r2, %r3;",
        "cvt.rn.relu.f16x2.f32 %r1, %r2, %r3;",
        "cvt.rn.f16x2.f32 %r1, 0f00000000, %r3;",
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%r1}, %rd1, %rd2, 1, 1, 1, 0, 0;",
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(text):
    with pytest.raises(turing.UnexpectedPTX, match="expected mma.m16n8k16 of float16.*but found"):
        turing.rewrite(MMA + "\n" + text)


def test_whom_it_serves(monkeypatch):
    assert turing.serves((7, 5), torch.float16, 128)
    assert not turing.serves((8, 0), torch.float16, 128)  # has the instructions
    assert not turing.serves((7, 5), torch.bfloat16, 64)
    assert not turing.serves((7, 5), torch.float16, 129)
    monkeypatch.setattr(turing.triton, "__version__", "9.9.0")
    assert not turing.serves((7, 5), torch.float16, 64)


def test_a_refusal_computes_on_the_scalar_path_with_one_warning():
    calls = []

    class Kernel:
        def __getitem__(self, grid):
            return self

        def __call__(self, *arguments, **constants):
            calls.append(constants)
            if "arch" in constants:
                raise turing.UnexpectedPTX("expected this, but found that")

    with pytest.warns(RuntimeWarning, match="correctly and slowly: expected this, but found that"):
        launch.launch(Kernel(), 1, arch=turing.ARCH, BLOCK_M=16)
    assert calls == [{"arch": turing.ARCH, "BLOCK_M": 16}, {"BLOCK_M": 16}]
    query = torch.zeros(1, 1, 4, 64, dtype=torch.float16)
    assert not turing.serves((7, 5), query.dtype, 64)  # from now on the tables choose tiles for the scalar path


def test_the_switch_is_put_back():
    before = turing.knobs.runtime.add_stages_inspection_hook
    with turing.tensor_cores():
        assert turing.knobs.runtime.add_stages_inspection_hook is not before
    assert turing.knobs.runtime.add_stages_inspection_hook is before


def test_other_kernels_are_left_alone():
    """While the switch is on, a kernel that asks for no other architecture is compiled as always."""

    class Options:
        arch = "sm75"

    stages = {"ptx": lambda source, metadata: MMA}
    turing._pipeline(None, stages, Options(), None, 75)
    assert stages["ptx"](None, None) == MMA


def test_tiles_of_other_gpus_ask_for_no_other_architecture():
    for table in (configs.HOPPER, configs.PORTABLE, configs.FLOAT32, configs.TURING, configs.AMD):
        assert all(config.arch is None for config in table.values())
