"""A small GPT over bytes, whose attention is an argument: the same weights, the same data, one line different."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flashlab import attention_decode

VOCABULARY = 256  # every byte is a token: no tokenizer to train, nothing to leak


@dataclass(frozen=True)
class Size:
    """Shape of a GPT, and the dtype of its matrix products. Weights are float32 always."""

    layers: int
    heads: int
    width: int
    context: int
    dtype: torch.dtype = torch.float32
    positions: bool = True  # learned, one for each place; without them attention must tell the order, as ALiBi does


LAPTOP = Size(layers=2, heads=2, width=64, context=128)
GPU = Size(layers=8, heads=8, width=512, context=2048, dtype=torch.bfloat16)


def naive_attention(query, key, value):
    """Causal attention with every S×S matrix in memory; autograd keeps them until the backward pass."""
    seqlen = query.shape[2]
    scores = query @ key.mT * query.shape[-1] ** -0.5
    future = torch.ones(seqlen, seqlen, dtype=torch.bool, device=query.device).triu(1)
    probs = scores.masked_fill(future, -torch.inf).softmax(-1)
    return probs @ value


def alibi_slopes(heads):
    """(H,): how fast each head forgets what lies far back (Press et al. 2022, section 3)."""
    return torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])


class Block(nn.Module):
    """One transformer layer: attention, then a two-layer network, each added to its input."""

    def __init__(self, size, attention):
        super().__init__()
        self.heads, self.attention = size.heads, attention
        self.norm_1, self.norm_2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width, bias=False)
        self.project = nn.Linear(size.width, size.width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(size.width, 4 * size.width), nn.GELU(), nn.Linear(4 * size.width, size.width))

    def forward(self, x, attention=None):
        qkv = self.qkv(self.norm_1(x))  # (B, S, 3·width)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, S, D)
        mixed = (attention or self.attention)(query, key, value)  # (B, H, S, D)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """Bytes in, a guess about each next byte out."""

    def __init__(self, size, attention):
        super().__init__()
        self.size = size
        self.tokens = nn.Embedding(VOCABULARY, size.width)
        self.positions = nn.Embedding(size.context, size.width) if size.positions else None
        self.blocks = nn.ModuleList(Block(size, attention) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, VOCABULARY, bias=False)

    def forward(self, tokens, cache=None):
        """Logits (B, S, 256) for tokens (B, S), which go on from what is in the cache."""
        dtype = self.size.dtype
        with torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32):
            x = self.tokens(tokens)
            if self.positions is not None:
                places = torch.arange(tokens.shape[1], device=tokens.device)
                x = x + self.positions(places if cache is None else cache.lengths[:, None] + places)
            for n, block in enumerate(self.blocks):
                x = block(x, cache and cache.attention(n))
            if cache is not None:
                cache.lengths += tokens.shape[1]
            return self.head(self.norm(x))

    def loss(self, tokens):
        """Mean cross-entropy of every next byte, in nats, for tokens (B, S + 1)."""
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


class KVCache:
    """Keys and values of all tokens so far, of every layer. It never waits for the GPU, so that a step fits into a CUDA graph."""

    def __init__(self, size, batch, device):
        shape = (size.layers, batch, size.heads, size.context, size.width // size.heads)
        self.keys, self.values = (torch.zeros(shape, dtype=size.dtype, device=device) for _ in range(2))
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)

    def attention(self, layer):
        """What stands in for a layer's attention: it remembers the new keys and values, and looks at all that are there."""

        def attend(query, key, value):
            return attention_decode(query, self.keys[layer], self.values[layer], self.lengths, key=key, value=value)

        return attend


def new_cache(model, batch=1):
    """An empty cache for a model, with room for its context."""
    return KVCache(model.size, batch, device_of(model))


def batches(text, size, batch, steps, seed, device):
    """`steps` batches (batch, context + 1) of random stretches of a text, the same for the same seed on every machine."""
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(data) - size.context - 1, (batch,), generator=generator)
        yield torch.stack([data[start : start + size.context + 1] for start in starts]).long().to(device)


def new_model(size, attention, seed, device):
    """A GPT whose first weights depend on the seed alone."""
    torch.manual_seed(seed)
    return GPT(size, attention).to(device)


def train(model, text_batches, learning_rate=3e-3, on_step=None):
    """Train in place; returns the loss of every step. on_step(loss) is called after each, for a progress bar."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    for tokens in text_batches:
        loss = model.loss(tokens)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if on_step:
            on_step(losses[-1])
    return losses


@torch.no_grad()
def evaluate(model, text_batches):
    """Mean loss in nats a byte over the batches."""
    losses = [model.loss(tokens).item() for tokens in text_batches]
    return sum(losses) / len(losses)


@torch.no_grad()
def generate(model, prompt, length, seed=0, temperature=0.9):
    """The prompt and `length` bytes more, each drawn from the model's guess. Every byte computes the whole text anew."""
    draw = drawing(seed, temperature)
    tokens = torch.tensor([list(prompt)])
    for _ in range(length):
        logits = model(tokens[:, -model.size.context :].to(device_of(model)))
        tokens = torch.cat([tokens, draw(logits)], dim=1)
    return bytes(tokens[0].tolist())


@torch.no_grad()
def generate_with_cache(model, prompt, length, seed=0, temperature=0.9):
    """The same bytes. The prompt is read once; after it each byte computes its own row alone."""
    if len(prompt) + length > model.size.context:
        raise ValueError(f"prompt and length: {len(prompt)} + {length} bytes, and this model's cache has room for {model.size.context}.")
    draw, cache = drawing(seed, temperature), new_cache(model)
    tokens = new = torch.tensor([list(prompt)])
    for _ in range(length):
        new = draw(model(new.to(device_of(model)), cache))
        tokens = torch.cat([tokens, new], dim=1)
    return bytes(tokens[0].tolist())


def drawing(seed, temperature):
    """A function that draws the next token, (1, 1), from logits (1, S, 256). The same seed draws the same."""
    generator = torch.Generator().manual_seed(seed)

    def draw(logits):
        guess = (logits[0, -1].float().cpu() / temperature).softmax(-1)
        return torch.multinomial(guess, 1, generator=generator)[None]

    return draw


def device_of(model):
    return next(model.parameters()).device
