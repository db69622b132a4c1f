"""What lessons 12 and 14 measure: small where a lesson runs, large for the records, `python -m flashlab.course.experiments`.

Times are what a user waits, from Python's call to the last result, so what Python and the launches cost is in them.
"""

import functools
import statistics
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from flashlab import attention, attention_decode
from flashlab.bench.timing import interleaved
from flashlab.course import corpus, gpt

FLASH = functools.partial(attention, is_causal=True)
SDPA = functools.partial(F.scaled_dot_product_attention, is_causal=True)
ATTENTIONS = {"naive": gpt.naive_attention, "SDPA": SDPA, "flashlab": FLASH}
HEADS, HEADS_KV, HEAD_DIM = 32, 8, 128  # of the caches below


def seconds(work, device, runs=7):
    """Median wall time of `work()`, with nothing left to do when the clock stops."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    found = []
    for _ in range(runs + 2):
        wait()
        start = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - start)
    return statistics.median(found[2:])  # the first ones compile, and warm the caches


# ------------------------------------------------------------------------------------------------------------------ lesson 12


def phase_costs(size, device, batch=4, sequences=(1, 8, 64)):
    """One row a phase of one GPT's life, with the microseconds that a token costs: training, reading a prompt, writing."""
    model = gpt.new_model(size, FLASH, seed=0, device=device)
    text = torch.randint(gpt.VOCABULARY, (batch, size.context + 1), device=device)
    optimizer, half = torch.optim.AdamW(model.parameters()), size.context // 2

    def train():
        optimizer.zero_grad(set_to_none=True)
        model.loss(text).backward()
        optimizer.step()

    rows = [_row("training", batch, size, seconds(train, device) / (batch * size.context))]
    with torch.no_grad():
        prompt = text[:1, :half]
        rows.append(_row("prefill", 1, size, seconds(lambda: model(prompt, gpt.new_cache(model)), device) / half))
        rows.append(_row("writing, all anew", 1, size, seconds(lambda: model(prompt), device)))
        for count in sequences:
            step = functools.partial(_write, model, gpt.new_cache(model, count), text[:1, :1].expand(count, 1), half)
            rows.append(_row("writing", count, size, seconds(step, device) / count))
            if torch.device(device).type == "cuda":
                rows.append(_row("writing, captured", count, size, seconds(captured(step), device) / count))
    return rows


def _row(phase, batch, size, per_token):
    shape = dict(layers=size.layers, width=size.width, context=size.context, dtype=str(size.dtype).removeprefix("torch."))
    return dict(phase=phase, batch=batch, microseconds=1e6 * per_token, **shape)


def _write(model, cache, new, length):
    """One step: a new token of each sequence, of which `length` lie in the cache."""
    cache.lengths.fill_(length)
    return model(new, cache)


def captured(step):
    """The same step as one CUDA graph: its launches are recorded once, then replayed without Python."""
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def split_times(capacity, device, splits=(1, 2, 4, 8, 16, 32, 64, 128)):
    """{number of splits: milliseconds} of one new token against a cache of this many keys; "chosen" is what the library takes."""
    query, k_cache, v_cache = _caches(1, capacity, device)
    works = {str(n): functools.partial(attention_decode, query, k_cache, v_cache, splits=n) for n in splits}
    works["chosen"] = functools.partial(attention_decode, query, k_cache, v_cache)
    return {name: times.median for name, times in interleaved(works, device).items()}


def fp8_cache(batch, capacity, device):
    """Bytes, milliseconds and the largest error of a cache in 16 and in 8 bits, on the same keys and values."""
    query, k_cache, v_cache = _caches(batch, capacity, device)
    small, scales = zip(*(to_fp8(cache) for cache in (k_cache, v_cache)), strict=True)
    works = {
        "16 bits": functools.partial(attention_decode, query, k_cache, v_cache),
        "8 bits": functools.partial(attention_decode, query, *small, k_scale=scales[0], v_scale=scales[1]),
    }
    times = interleaved(works, device)
    truth = F.scaled_dot_product_attention(query.float(), k_cache.float(), v_cache.float(), enable_gqa=True)
    caches = {"16 bits": (k_cache, v_cache), "8 bits": small}
    return {
        name: dict(
            bytes=sum(cache.nbytes for cache in caches[name]),
            ms=times[name].median,
            error=(work().float() - truth).abs().max().item(),
            largest=truth.abs().max().item(),
        )
        for name, work in works.items()
    }


def to_fp8(cache):
    """A cache (B, Hkv, S, D) in float8_e4m3fn, and the scale of each head, (Hkv,), float32: its largest number becomes 448."""
    scale = cache.float().abs().amax((0, 2, 3)) / torch.finfo(torch.float8_e4m3fn).max
    return (cache.float() / scale[:, None, None]).to(torch.float8_e4m3fn), scale


def _caches(batch, capacity, device):
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    shapes = (HEADS, 1), (HEADS_KV, capacity), (HEADS_KV, capacity)
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(batch, h, s, HEAD_DIM, generator=generator, device=device, dtype=dtype) for h, s in shapes]


# ------------------------------------------------------------------------------------------------------------------ lesson 14


def call_times(seqlens, device, batch=1, heads=8, head_dim=64):
    """One row a length: milliseconds that forward and backward of one causal call take, of naive, SDPA and flashlab."""
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    rows = []
    for seqlen in seqlens:
        inputs = [torch.randn(batch, heads, seqlen, head_dim, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
        row = dict(batch=batch, heads=heads, seqlen=seqlen, head_dim=head_dim, dtype=str(dtype).removeprefix("torch."))
        works = {name: functools.partial(_forward_and_backward, attend, inputs) for name, attend in ATTENTIONS.items()}
        rows.append(row | dict(ms={name: 1e3 * seconds(work, device, runs=15) for name, work in works.items()}))
    return rows


def _forward_and_backward(attend, inputs):
    torch.autograd.grad(attend(*inputs).sum(), inputs)


def with_alibi(heads, device):
    """naive and flashlab with ALiBi: attention that tells near from far by itself, so that a text may be longer than any in training."""
    slopes = gpt.alibi_slopes(heads).to(device)

    def naive(query, key, value):
        place = torch.arange(query.shape[2], device=device)
        far = place[:, None] - place
        scores = query @ key.mT * query.shape[-1] ** -0.5 - slopes[:, None, None] * far
        return scores.masked_fill(far < 0, -torch.inf).softmax(-1).to(value.dtype) @ value

    return {"naive": naive, "flashlab": functools.partial(attention, is_causal=True, alibi_slopes=slopes)}


def train_pairs(size, seeds, steps, batch, device, learning_rate=3e-3, on_step=None):
    """Train each seed with both attentions. One row a run: the loss on unseen code, also in 2 and 4 times the context, on prose."""
    text, size, rows = corpus.load(), replace(size, positions=False), []
    for seed in seeds:
        for name, attend in with_alibi(size.heads, device).items():
            model = gpt.new_model(size, attend, seed, device)
            losses = gpt.train(model, gpt.batches(text.train, size, batch, steps, seed, device), learning_rate, on_step)

            def loss(side, longer=1, model=model):
                longer_size = replace(size, context=longer * size.context)
                return gpt.evaluate(model, gpt.batches(side, longer_size, max(1, batch // longer), 4, seed=1, device=device))

            found = {"training": statistics.mean(losses[-10:]), "unseen code": loss(text.validation)}
            found |= {f"{longer} times the context": loss(text.validation, longer) for longer in (2, 4)}
            rows.append(dict(attention=name, seed=seed, losses=found | {"prose": loss(text.out_of_distribution)}))
    return rows


EDGE_SIZES = {"small": replace(gpt.LAPTOP, context=256), "larger": replace(gpt.GPU, context=256)}


def cloud_and_edge(device, names=tuple(EDGE_SIZES)):
    """One row for each of two GPTs and each phase of its life on this device, in bfloat16 on a GPU and float32 on a CPU."""
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    rows = []
    for name in names:
        size = replace(EDGE_SIZES[name], dtype=dtype)
        weights = sum(weight.numel() for weight in gpt.GPT(size, FLASH).parameters())
        rows += [dict(name=name, weights=weights) | row for row in phase_costs(size, device, sequences=(1, 64))]
    return rows


def measure(device):
    """All of it, at the sizes of the record."""
    large = torch.device(device).type == "cuda"
    found = dict(
        phases=phase_costs(gpt.GPU if large else gpt.LAPTOP, device),
        calls=call_times([2**n for n in range(6, 15 if large else 12)], device),
        edge=cloud_and_edge(device),
    )
    if large:
        found["splits"] = {str(capacity): split_times(capacity, device) for capacity in (4096, 32768, 131072)}
        found["fp8"] = [dict(batch=batch, capacity=32768) | {"caches": fp8_cache(batch, 32768, device)} for batch in (1, 16)]
    size, steps, batch = (replace(gpt.GPU, context=1024), 300, 8) if large else (gpt.LAPTOP, 80, 16)
    pairs = train_pairs(size, range(5), steps, batch, device, learning_rate=3e-4 if large else 3e-3)
    found["pairs"] = dict(context=size.context, layers=size.layers, width=size.width, steps=steps, batch=batch, runs=pairs)
    return found


def main(out: str = "benchmarks", device: str = "cuda" if torch.cuda.is_available() else "cpu", commit: str = ""):
    """Write what this machine measures into OUT/experiments-<machine>.json."""
    from flashlab.bench import record

    print(record.write(measure(device), out, "python -m flashlab.course.experiments", commit or None, device, "experiments-"))


if __name__ == "__main__":
    import typer

    typer.run(main)
