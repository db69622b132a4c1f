"""Decoding from a cache: every path against the oracle; pages, appended keys, rotary angles, fp8; and what is refused."""

import itertools

import pytest
import torch

from flashlab import attention, attention_decode, reference
from flashlab.spec import NO_EXTRAS, Extras, Spec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PATHS = ["public"] if DEVICE == "cuda" else ["public", "kernels"]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """On a CPU the kernels run in the interpreter, in the place of the CPU path."""
    if request.param == "kernels":
        pytest.importorskip("triton")  # no build for macOS
        from flashlab import decoding

        for name in ("decode", "append", "rotate"):
            monkeypatch.setattr(torch.ops.flashlab, name, getattr(decoding, f"_{name}_on_cuda"))
        monkeypatch.setattr(torch.cuda, "device_of", lambda _: torch.no_grad())
    return request.param


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def problem(lengths, heads=4, heads_kv=2, seqlen_q=1, head_dim=16, value_dim=None, capacity=None, dtype=torch.float32):
    """query, k_cache, v_cache, cache_lengths. What lies past a length is NaN."""
    batch, capacity = len(lengths), capacity or max(lengths)
    query = drawn(batch, heads, seqlen_q, head_dim, dtype=dtype)
    caches = [drawn(batch, heads_kv, capacity, dim, seed=n, dtype=dtype) for n, dim in enumerate((head_dim, value_dim or head_dim), 1)]
    for cache in caches:
        for row, length in zip(cache, lengths, strict=True):
            row[:, length:] = torch.nan
    return query, *caches, torch.tensor(lengths, dtype=torch.int32, device=DEVICE)


def oracle(query, k_cache, v_cache, lengths, **features):
    """(out, lse) of each sequence by itself, float64."""
    slopes, sinks = features.pop("alibi_slopes", None), features.pop("sinks", None)
    features = {"is_causal": True, "scale": query.shape[-1] ** -0.5} | features
    spec, found = Spec(bottom_right=True, **features), []
    for b, length in enumerate(lengths.tolist()):
        own = None if slopes is None else slopes.reshape(-1, query.shape[1])[b : b + 1] if slopes.dim() == 2 else slopes[None]
        extras = Extras(alibi_slopes=own, sinks=sinks)
        found.append(reference.attention(query[b : b + 1], k_cache[b : b + 1, :, :length], v_cache[b : b + 1, :, :length], spec, extras))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def assert_right(found, truth, query):
    """Both out and lse, within a few roundings of query's dtype."""
    step = torch.finfo(query.dtype).eps
    for got, want, tolerance in zip(found, truth, (8 * step, 1e-5), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def paged(k_cache, v_cache, lengths, page, spare=3):
    """The same keys in pages of any order; what no sequence uses is NaN, and the table's unused entries are far out of range."""
    batch, heads_kv, capacity, _ = k_cache.shape
    count = -(-capacity // page)
    numbers = torch.randperm(batch * count + spare, generator=torch.Generator().manual_seed(7))
    table = torch.full((batch, count), 2**30, dtype=torch.int32)
    pages = [torch.full((len(numbers), heads_kv, page, x.shape[3]), torch.nan, dtype=x.dtype, device=x.device) for x in (k_cache, v_cache)]
    free = iter(numbers.tolist())
    for b, length in enumerate(lengths.tolist()):
        for n in range(-(-length // page)):
            table[b, n] = number = next(free)
            for cache, x in zip(pages, (k_cache, v_cache), strict=True):
                own = x[b, :, n * page : (n + 1) * page]
                cache[number, :, : own.shape[1]] = own
    return *pages, table.to(DEVICE)


FEATURES = {
    "plain": {},
    "full": dict(is_causal=False),
    "window": dict(window=(9, 0)),
    "both sides": dict(window=(20, 3), is_causal=False),
    "softcap": dict(softcap=2.0),
    "alibi": dict(alibi_slopes=torch.tensor([0.1, 0.2, 0.3, 0.4], device=DEVICE)),
    "alibi of each": dict(alibi_slopes=torch.linspace(0.05, 0.6, 12, device=DEVICE).reshape(3, 4)),
    "sinks": dict(sinks=torch.tensor([0.5, -1.0, 3.0, 0.0], device=DEVICE)),
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("seqlen_q", [1, 3])
def test_it_is_attention_over_each_sequence(features, seqlen_q, path):
    inputs = problem((70, 1, 200), seqlen_q=seqlen_q)
    for splits in (1, 3):
        found = attention_decode(*inputs, **features, splits=splits, return_lse=True)
        assert_right(found, oracle(*inputs, **features), inputs[0])


@pytest.mark.parametrize(
    ("heads", "heads_kv", "head_dim", "value_dim"), [(2, 2, 64, 64), (8, 1, 40, 24), (6, 3, 1, 5), (1, 1, 256, 256), (12, 2, 16, 16)]
)
def test_groups_and_head_dims(heads, heads_kv, head_dim, value_dim, path):
    inputs = problem((33, 64, 129), heads, heads_kv, 2, head_dim, value_dim)
    assert_right(attention_decode(*inputs, splits=2, return_lse=True), oracle(*inputs), inputs[0])


@pytest.mark.parametrize("page", [16, 64, 256])
def test_pages_in_any_order(page, path):
    query, k_cache, v_cache, lengths = problem((0, 1, page - 1, page, page + 1, 2 * page + 5))
    *pages, table = paged(k_cache, v_cache, lengths, page)
    for splits in (1, 2):
        found = attention_decode(query, *pages, lengths, block_table=table, splits=splits, return_lse=True)
        assert_right(found, oracle(query, k_cache, v_cache, lengths), query)


def test_a_row_that_sees_no_key_is_zero(path):
    inputs = problem((0, 5, 0), seqlen_q=2, capacity=8)
    out, lse = attention_decode(*inputs, splits=2, return_lse=True)
    assert (
        torch.equal(out[[0, 2]], torch.zeros_like(out[[0, 2]])) and bool((lse[[0, 2]] == -torch.inf).all()) and bool(out.isfinite().all())
    )
    inputs = problem((1, 5), seqlen_q=3)  # the first two rows of the first sequence lie before its only key
    out, lse = attention_decode(*inputs, return_lse=True)
    assert_right((out, lse), oracle(*inputs), out)
    assert bool((out[0, :, :2] == 0).all())


def test_no_sequences_and_no_rows(path):
    query, *caches, lengths = problem((4, 4))
    assert attention_decode(query[:0], *(x[:0] for x in caches), lengths[:0]).shape == (0, 4, 1, 16)
    assert attention_decode(query[:, :, :0], *caches, lengths).shape == (2, 4, 0, 16)


@pytest.mark.parametrize("page", [None, 16])
def test_new_keys_are_appended_and_seen(page, path):
    lengths = (0, 15, 16, 40)
    query, k_cache, v_cache, before = problem(lengths, seqlen_q=3, capacity=48)
    key, value = drawn(4, 2, 3, 16, seed=5), drawn(4, 2, 3, 16, seed=6)
    whole = [x.clone() for x in (k_cache, v_cache)]
    for cache, x in zip(whole, (key, value), strict=True):
        for b, length in enumerate(lengths):
            cache[b, :, length : length + 3] = x[b]
    truth = oracle(query, *whole, before + 3)
    if page is None:
        found = attention_decode(query, k_cache, v_cache, before, key=key, value=value, splits=2, return_lse=True)
        for cache, x in zip((k_cache, v_cache), whole, strict=True):
            assert torch.equal(cache.nan_to_num(9.0), x.nan_to_num(9.0))  # new keys where they belong, and nothing else changed
    else:
        *pages, table = paged(k_cache, v_cache, before + 3, page)
        found = attention_decode(query, *pages, before, key=key, value=value, block_table=table, splits=2, return_lse=True)
    assert_right(found, truth, query)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_rotary_angles_by_position(interleaved, is_causal, path):
    query, k_cache, v_cache, lengths = problem((3, 20), seqlen_q=2, capacity=24)
    key, value = drawn(2, 2, 2, 16, seed=5), drawn(2, 2, 2, 16, seed=6)
    angles = torch.arange(24)[:, None] * 0.7 ** torch.arange(6)  # the first 12 of 16 dims
    cos, sin = angles.cos().to(DEVICE), angles.sin().to(DEVICE)

    def turned(x, first, each=True):
        """As complex numbers: z · e^{i · angle}."""
        place = first + torch.arange(x.shape[-2]) * each
        a, b = (x[..., 0:12:2], x[..., 1:12:2]) if interleaved else (x[..., :6], x[..., 6:12])
        z = torch.complex(a.cpu(), b.cpu()) * torch.polar(torch.ones(()), angles[place])
        pair = torch.stack([z.real, z.imag], -1).flatten(-2) if interleaved else torch.cat([z.real, z.imag], -1)
        return torch.cat([pair.to(x.device), x[..., 12:]], -1)

    whole = [x.clone() for x in (k_cache, v_cache)]
    for b, length in enumerate(lengths.tolist()):
        whole[0][b, :, length : length + 2], whole[1][b, :, length : length + 2] = turned(key[b], length), value[b]
    rotated = torch.stack([turned(query[b], length, each=is_causal) for b, length in enumerate(lengths.tolist())])
    truth = oracle(rotated, *whole, lengths + 2, is_causal=is_causal)
    found = attention_decode(
        query, k_cache, v_cache, lengths, key=key, value=value, is_causal=is_causal, rotary_cos=cos, rotary_sin=sin,
        rotary_interleaved=interleaved, return_lse=True,
    )  # fmt: skip
    assert_right(found, truth, query)


def test_a_prompt_in_chunks_is_the_prompt_at_once(path):
    query, key, value = drawn(1, 4, 50, 16), drawn(1, 2, 50, 16, seed=1), drawn(1, 2, 50, 16, seed=2)
    caches = [torch.full((1, 2, 64, 16), torch.nan, device=DEVICE) for _ in range(2)]
    outs = []
    for begin, end in itertools.pairwise((0, 17, 18, 40, 50)):
        lengths, rows = torch.tensor([begin], dtype=torch.int32, device=DEVICE), slice(begin, end)
        outs.append(attention_decode(query[:, :, rows], *caches, lengths, key=key[:, :, rows], value=value[:, :, rows]))
    truth = attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(torch.cat(outs, dim=2), truth, rtol=1e-5, atol=1e-5)


def test_an_fp8_cache_is_as_good_as_its_rounding(path):
    query, k_cache, v_cache, lengths = problem((30, 90))
    scales = [torch.tensor([0.5, 2.0], device=DEVICE) / 32, torch.tensor([1.0, 0.25], device=DEVICE) / 32]
    eighths = [(x.nan_to_num(0.0) / s[:, None, None]).to(torch.float8_e4m3fn) for x, s in zip((k_cache, v_cache), scales, strict=True)]
    rounded = [x.float() * s[:, None, None] for x, s in zip(eighths, scales, strict=True)]
    key, value = drawn(2, 2, 1, 16, seed=5), drawn(2, 2, 1, 16, seed=6)
    found = attention_decode(query, *eighths, lengths, k_scale=scales[0], v_scale=scales[1], splits=2, return_lse=True)
    assert_right(found, oracle(query, *rounded, lengths), query)
    if path == "kernels":  # the interpreter rounds to fp8 wrongly where a carry reaches the exponent
        return
    attention_decode(query, *eighths, lengths - 1, key=key, value=value, k_scale=scales[0], v_scale=scales[1])
    for cache, x, s in zip(eighths, (key, value), scales, strict=True):
        at = cache[torch.arange(2), :, (lengths - 1).long()].float() * s[:, None]
        torch.testing.assert_close(at, x[:, :, 0], rtol=2**-4, atol=2**-9)  # e4m3 keeps 3 bits behind the first


def test_layouts_are_not_copied(path):
    query, k_cache, v_cache, lengths = problem((20, 50), seqlen_q=2, head_dim=24)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, k_cache, v_cache)]
    assert_right(attention_decode(*turned, lengths, return_lse=True), oracle(query, k_cache, v_cache, lengths), query)


def test_lengths_may_be_left_out(path):
    query, k_cache, v_cache, lengths = problem((33, 33))
    assert torch.equal(attention_decode(query, k_cache, v_cache), attention_decode(query, k_cache, v_cache, lengths))


def test_another_capacity_is_served_by_what_has_been_compiled():
    """Where text is generated with tensors that grow, every step is a call of another one."""
    pytest.importorskip("triton")
    from flashlab.kernels import decode

    compiled_for = []
    for capacity in (700, 701):
        tensors = problem([capacity, 600])[:3]
        launches = decode.plan(*tensors, None, None, Spec(0.25), NO_EXTRAS, None, 0, 3, None)[1:]
        compiled_for.append([launch.constants for launch in launches])
    assert compiled_for[0] == compiled_for[1]


def test_split_sums_are_the_same_bits_every_run(path):
    inputs = problem((200, 130), seqlen_q=2)
    first = attention_decode(*inputs, splits=4)
    assert all(torch.equal(first, attention_decode(*inputs, splits=4)) for _ in range(3))


def wrong(**changes):
    """A call with one thing changed; returns its message."""
    query, k_cache, v_cache, lengths = problem((5, 8), capacity=16)
    arguments = dict(query=query, k_cache=k_cache, v_cache=v_cache, cache_lengths=lengths) | changes
    with pytest.raises(ValueError) as error:
        attention_decode(**arguments, check=True)
    return str(error.value)


def ints(*numbers):
    return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)


NEW = dict(key=torch.zeros(2, 2, 1, 16, device=DEVICE), value=torch.zeros(2, 2, 1, 16, device=DEVICE))
POOL = dict(k_cache=torch.zeros(4, 2, 8, 16, device=DEVICE), v_cache=torch.zeros(4, 2, 8, 16, device=DEVICE))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(query=torch.zeros(2, 3, 1, 16, device=DEVICE)), "query has 3 heads and k_cache 2: query's must be a multiple"),
        (dict(query=torch.zeros(3, 4, 1, 16, device=DEVICE)), "query has 3 sequences and k_cache 2"),
        (dict(query=torch.zeros(2, 4, 1, 8, device=DEVICE)), "query's head_dim is 8, k_cache's 16"),
        (
            dict(k_cache=torch.zeros(2, 16, 16, device=DEVICE)),
            "k_cache is (2, 16, 16): pass a tensor (batch, key heads, capacity, head_dim)",
        ),
        (dict(k_cache=torch.zeros(2, 2, 16, 16, dtype=torch.float16, device=DEVICE)), "k_cache is torch.float16 and query torch.float32"),
        (dict(v_cache=torch.zeros(2, 2, 12, 16, device=DEVICE)), "all but the last must agree"),
        (dict(cache_lengths=torch.tensor([5, 8], device=DEVICE)), "cache_lengths is torch.int64, (2,): pass an int32 tensor (2,)"),
        (dict(cache_lengths=ints(5, 17)), "cache_lengths is 17 at sequence 1: the cache holds 0 to 16 keys."),
        (dict(cache_lengths=ints(-1, 8)), "cache_lengths is -1 at sequence 0"),
        (dict(cache_lengths=ints(5, 16), **NEW), "cache_lengths is 16 at sequence 1: the cache holds 0 to 16 keys and 1 to be added"),
        (dict(cache_lengths=None, **NEW), "cache_lengths is missing where key and value are to be added"),
        (dict(key=NEW["key"]), "value is a NoneType: pass new keys and values together"),
        (NEW | dict(key=torch.zeros(2, 1, 1, 16, device=DEVICE)), "key is (2, 1, 1, 16)"),
        (POOL | dict(block_table=torch.zeros(2, 2, device=DEVICE)), "block_table is torch.float32, (2, 2): pass an int32 tensor (2, pages"),
        (POOL | dict(block_table=ints(0, 1)[None]), "block_table is torch.int32, (1, 2): pass an int32 tensor (2, pages"),
        (POOL | dict(block_table=ints(0, 4).reshape(2, 1)), "block_table is 4 at sequence 1, place 0: k_cache has pages 0 to 3"),
        (POOL | dict(block_table=ints(-1, 2).reshape(2, 1)), "block_table is -1 at sequence 0, place 0"),
        (
            POOL | dict(block_table=ints(0, 2).reshape(2, 1), cache_lengths=ints(5, 9)),
            "cache_lengths is 9 at sequence 1: the cache holds 0 to 8",
        ),
        (
            {name: x[:, :, :0] for name, x in POOL.items()} | dict(block_table=ints(0, 2).reshape(2, 1), cache_lengths=ints(0, 0)),
            "k_cache is (4, 2, 0, 16), pages without room for a key: pass (pages, key heads, page size, head_dim) with page size 1 or more",
        ),
        (dict(rotary_cos=torch.zeros(9, 4, device=DEVICE)), "rotary_sin is a NoneType"),
        (dict(rotary_cos=torch.zeros(9, 9, device=DEVICE), rotary_sin=torch.zeros(9, 9, device=DEVICE)), "at most 8 columns"),
        (
            dict(rotary_cos=torch.zeros(9, 4, device=DEVICE), rotary_sin=torch.zeros(9, 4, device=DEVICE)),
            "has 9 positions, and the cache has room for 16",
        ),
        (
            dict(rotary_cos=torch.zeros(16, 4, device=DEVICE), rotary_sin=torch.zeros(16, 4, device=DEVICE)),
            "has 16 positions, and behind a full cache the rows of query need 17",
        ),
        (dict(k_scale=torch.ones(2, device=DEVICE)), "k_scale and v_scale belong to a cache of torch.float8_e4m3fn"),
        (
            {x: torch.zeros(2, 2, 16, 16, device=DEVICE).to(torch.float8_e4m3fn) for x in ("k_cache", "v_cache")},
            "an fp8 cache has one scale",
        ),
        (dict(splits=0), "splits is 0: pass 1 to 128"),
        (dict(query=torch.zeros(2, 4, 1, 16, device=DEVICE, requires_grad=True)), "decoding has none: call it under torch.no_grad()"),
        (dict(k_cache=torch.zeros(2, 2, 16, 16, device=DEVICE, requires_grad=True)), "decoding has none: call it under torch.no_grad()"),
        (dict(window=(3,)), "window is (3,): pass (left, right)"),
    ],
)
def test_what_is_refused(changes, words):
    assert words in wrong(**changes)


@pytest.mark.parametrize(
    "change", [dict(splits=0), dict(scale="big"), dict(softcap=-1.0), dict(sinks=torch.zeros(3)), dict(alibi_slopes=[1.0])]
)
def test_what_is_refused_leaves_the_cache_as_it_was(change):
    query, k_cache, v_cache, lengths = problem((3, 9), capacity=16)
    before = k_cache.clone()
    with pytest.raises(ValueError):
        attention_decode(query, k_cache, v_cache, lengths, **NEW, **change)
    torch.testing.assert_close(k_cache, before, rtol=0, atol=0, equal_nan=True)  # NaN behind the lengths


def vmapped_grad(function):
    return torch.func.grad(lambda cache: torch.func.vmap(function)(cache[None]).sum())


def vmapped_jvp(function):
    return lambda cache: torch.func.jvp(torch.func.vmap(function), (cache[None],), (cache[None],))


TRANSFORMS = [torch.func.grad, torch.func.jacrev, torch.func.jacfwd, vmapped_grad, vmapped_jvp]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_that_want_derivatives_are_refused(transform, compiled):
    query, k_cache, v_cache, _ = problem((3, 9), capacity=16)
    function = transform(lambda cache: attention_decode(query, cache, v_cache).sum())
    if compiled:
        torch.compiler.reset()
        function = torch.compile(function, backend="aot_eager")
    with pytest.raises(ValueError, match="decoding has none"):
        function(k_cache)


@pytest.mark.parametrize("name", ["query", "sinks", "alibi_slopes"])
def test_forward_mode_is_refused(name):
    query, k_cache, v_cache, _ = problem((3, 9), capacity=16)
    arguments = dict(query=query, sinks=torch.zeros(4, device=DEVICE), alibi_slopes=torch.zeros(4, device=DEVICE))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match="forward-mode"):
        arguments[name] = torch.autograd.forward_ad.make_dual(arguments[name], torch.ones_like(arguments[name]))
        attention_decode(k_cache=k_cache, v_cache=v_cache, **arguments)


def test_vmap_over_lengths_and_tables():
    query, k_cache, v_cache, lengths = problem((70, 33, 64), capacity=80)
    *pages, table = paged(k_cache, v_cache, lengths, 16)
    both = torch.stack([lengths, lengths - 5])
    expected = torch.stack([attention_decode(query, k_cache, v_cache, x) for x in both])
    assert torch.equal(torch.func.vmap(lambda x: attention_decode(query, k_cache, v_cache, x))(both), expected)
    tables = torch.stack([table, table])
    found = torch.func.vmap(lambda x, own: attention_decode(query, *pages, x, block_table=own))(both, tables)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["key", "k_cache", "cache_lengths"])
def test_vmap_over_keys_that_are_added_is_refused(name):
    query, k_cache, v_cache, lengths = problem((3, 9), capacity=16)
    arguments = NEW | dict(k_cache=k_cache, v_cache=v_cache, cache_lengths=lengths)
    with pytest.raises(ValueError, match=f"{name} is mapped over by torch.vmap"):
        torch.func.vmap(lambda x: attention_decode(query, **arguments | {name: x}))(arguments[name][None])


@pytest.mark.parametrize("page", [None, 16])
def test_compiles_into_one_graph(page):
    query, k_cache, v_cache, lengths = problem((70, 33, 64), capacity=80)
    caches, table = (k_cache, v_cache), None
    if page is not None:
        *caches, table = paged(k_cache, v_cache, lengths + 1, page)
    key, value = drawn(3, 2, 1, 16, seed=5), drawn(3, 2, 1, 16, seed=6)

    def step(caches, lengths, key, value, check):
        return attention_decode(query, *caches, lengths, key=key, value=value, block_table=table, check=check, return_lse=True)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for number, check in enumerate((False, True)):
        mine, truth = [x.clone() for x in caches], [x.clone() for x in caches]
        found = compiled(mine, lengths - number, key, value, check)
        assert all(map(torch.equal, found, step(truth, lengths - number, key, value, check)))
        assert all(torch.equal(x.nan_to_num(9.0), y.nan_to_num(9.0)) for x, y in zip(mine, truth, strict=True))


@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_in_the_dtype_of_the_cache(given, kept):
    query, *caches, lengths = problem((3, 9), capacity=16, dtype=kept)
    query, new = query.to(given), {name: drawn(2, 2, 1, 16, seed=5, dtype=given) for name in NEW}
    mine, truth = ([x.clone() for x in caches] for _ in range(2))
    expected = attention_decode(query.to(kept), *truth, lengths, **{name: x.to(kept) for name, x in new.items()})
    with torch.autocast(DEVICE, torch.bfloat16):
        found = attention_decode(query, *mine, lengths, **new)
    assert found.dtype == kept and torch.equal(found, expected)
    assert all(torch.equal(x.nan_to_num(9.0), y.nan_to_num(9.0)) for x, y in zip(mine, truth, strict=True))


def test_autocast_beside_an_fp8_cache_computes_in_the_dtype_that_was_chosen():
    query, k_cache, v_cache, lengths = problem((3, 9), capacity=16)
    arguments = [x.nan_to_num(0.0).to(torch.float8_e4m3fn) for x in (k_cache, v_cache)] + [lengths]
    scales = dict(k_scale=torch.ones(2, device=DEVICE), v_scale=torch.ones(2, device=DEVICE))
    with torch.autocast(DEVICE, torch.bfloat16):
        found = attention_decode(query, *arguments, **scales)
    assert found.dtype == torch.bfloat16 and torch.equal(found, attention_decode(query.bfloat16(), *arguments, **scales))


@pytest.mark.parametrize(
    ("spec", "rows", "keys"),
    [
        (Spec(1.0), 1, 1000),
        (Spec(1.0, True), 4, 1000),
        (Spec(1.0, True, (99, -1)), 1, 100),
        (Spec(1.0, True, (99, -1)), 4, 103),
        (Spec(1.0, False, (99, 10)), 1, 110),
        (Spec(1.0, False, (99, -1)), 1, 1000),
        (Spec(1.0, True, (5000, 0)), 1, 1000),
    ],
)
def test_what_a_window_does_not_see_is_not_split(spec, rows, keys):
    pytest.importorskip("triton")
    from flashlab.kernels.decode import keys_in_sight

    assert keys_in_sight(spec, rows, 1000) == keys
