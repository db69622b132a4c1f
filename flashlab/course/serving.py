"""What serving a language model takes: the cache of its keys and values, and the least time of a step, from published shapes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """The shape of a published model."""

    name: str
    layers: int
    heads: int
    heads_kv: int
    head_dim: int
    weights: float  # 10⁹
    source: str

    def cache_bytes(self, tokens, itemsize=2):
        """Keys and values of this many tokens, in every layer."""
        return 2 * self.layers * self.heads_kv * self.head_dim * itemsize * tokens

    def weight_bytes(self, itemsize=2):
        return self.weights * 1e9 * itemsize


MODELS = {
    model.name: model
    for model in (
        Model("GPT-2 XL", 48, 25, 25, 64, 1.56, "Radford et al. 2019, table 2"),
        Model("Llama 2 7B", 32, 32, 32, 128, 6.74, "Touvron et al. 2023, Llama 2"),
        Model("Mistral 7B", 32, 32, 8, 128, 7.24, "Jiang et al. 2023, table 1"),
        Model("Llama 3 8B", 32, 32, 8, 128, 8.03, "Grattafiori et al. 2024, table 3"),
        Model("Llama 3 70B", 80, 64, 8, 128, 70.6, "Grattafiori et al. 2024, table 3"),
        Model("Llama 3 405B", 126, 128, 8, 128, 405.0, "Grattafiori et al. 2024, table 3"),
    )
}


def decode_step(model, batch, context):
    """(operations, bytes) of one new token for each of `batch` sequences of `context` tokens, in 16 bits.

    Every weight is read once for all of them, and every sequence's cache once.
    """
    attention = 4 * model.layers * model.heads * model.head_dim * context
    flops = batch * (2 * model.weights * 1e9 + attention)
    return flops, model.weight_bytes() + batch * model.cache_bytes(context)


def prefill(model, context):
    """(operations, bytes) of reading a prompt of `context` tokens: causal attention, and the cache written once."""
    attention = 2 * model.layers * model.heads * model.head_dim * context**2
    return 2 * model.weights * 1e9 * context + attention, model.weight_bytes() + model.cache_bytes(context)


def most_sequences(model, gpu, context):
    """How many sequences of this length fit beside the weights; 0 where not even the weights fit."""
    free = gpu.memory_gb * 1e9 - model.weight_bytes()
    return max(0, int(free // model.cache_bytes(context)))
