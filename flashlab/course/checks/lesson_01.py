"""Exercise 01, naive attention: a stable softmax, attention, a causal mask, and the gradients by hand."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps import naive

# ------------------------------------------------------------------------------------------------------------ what is right


def attention(Q, K, V):
    return naive.forward(Q, K, V)[0]


def causal_attention(Q, K, V):
    return naive.forward(Q, K, V, is_causal=True)[0]


def gradients(Q, K, V, dOut):
    """dQ, dK and dV of full attention."""
    return naive.backward(dOut, Q, K, V, *naive.forward(Q, K, V))


# -------------------------------------------------------------------------------------------------------------------- cases


def softmax_cases(rng):
    return [
        Case("1 row of 3 scores", (rng.normal(size=(1, 3)),)),
        Case("3 rows of 3 scores", (rng.normal(size=(3, 3)),)),
        Case("2 rows of 5 scores", (rng.normal(size=(2, 5)),)),
        Case("scores around 1000", (1000 + rng.normal(size=(2, 4)),)),
        Case("scores around -1000", (-1000 + rng.normal(size=(2, 4)),)),
        Case("one row from -1000 to 1000", (np.array([[-1000.0, 0.0, 999.0, 1000.0], [1000.0, -1000.0, 1.0, 2.0]]),)),
        Case("one row around 1000, one around -1000", (np.array([[1000.0], [-1000.0]]) + rng.normal(size=(2, 4)),)),
    ]


def _inputs(rng, seqlen_q, seqlen_k, head_dim, with_gradient=False):
    shapes = [(seqlen_q, head_dim), (seqlen_k, head_dim), (seqlen_k, head_dim)] + [(seqlen_q, head_dim)] * with_gradient
    return tuple(rng.normal(size=shape) for shape in shapes)


def attention_cases(rng):
    sizes = ((1, 1, 4), (1, 3, 4), (4, 4, 4), (5, 3, 2), (3, 7, 16))
    cases = [Case(f"{q} queries, {k} keys, head dim {d}", _inputs(rng, q, k, d)) for q, k, d in sizes]
    Q, K, V = _inputs(rng, 3, 5, 8)
    return [*cases, Case("scores of several hundred", (60 * Q, 60 * K, V))]


def causal_cases(rng):
    sizes = ((1, 4), (2, 4), (4, 4), (7, 16))
    cases = [Case(f"{s} tokens, head dim {d}", _inputs(rng, s, s, d)) for s, d in sizes]
    Q, K, V = _inputs(rng, 4, 4, 8)
    below = Case("scores far below zero", (300 * abs(Q), -300 * abs(K), V))
    lower = Case("scores around -1e16", (1e8 * abs(Q), -1e8 * abs(K), V))
    return [*cases, Case("values that are large", (Q, K, 100 + V)), Case("scores of several hundred", (60 * Q, 60 * K, V)), below, lower]


def gradient_cases(rng):
    sizes = ((1, 2, 4), (2, 2, 4), (4, 4, 4), (5, 3, 2), (3, 7, 16))
    cases = [Case(f"{q} queries, {k} keys, head dim {d}", _inputs(rng, q, k, d, True)) for q, k, d in sizes]
    Q, K, V, dOut = _inputs(rng, 3, 5, 8, True)
    return [*cases, Case("scores of a thousand and more", (60 * abs(Q), 60 * abs(K), V, dOut))]


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_softmax(answer, case):
    return compare.arrays(("softmax",), answer, naive.softmax(*case.arguments))


def compare_attention(answer, case):
    return compare.arrays(("out",), answer, attention(*case.arguments))


def compare_causal(answer, case):
    return compare.arrays(("out",), answer, causal_attention(*case.arguments))


def compare_gradients(answer, case):
    return compare.arrays(("dQ", "dK", "dV"), answer, gradients(*case.arguments))


# ------------------------------------------------------------------------------------------------- the mistakes people make


def _softmax_variant(maximum=lambda scores: scores.max(axis=-1, keepdims=True), total=lambda p: p.sum(axis=-1, keepdims=True)):
    def wrong(scores):
        p = np.exp(scores - maximum(scores))
        return p / total(p)

    return wrong


def _attention_variant(scale=lambda Q, K: Q.shape[-1] ** -0.5, probabilities=naive.softmax, transposed=True):
    def wrong(Q, K, V):
        return probabilities(scale(Q, K) * Q @ (K.T if transposed else K)) @ V

    return wrong


def _causal_variant(
    seen=lambda shape: np.tril(np.ones(shape, bool)),
    hidden=-np.inf,
    after=False,
    renormalise=False,
    added=None,
    scale=lambda Q: Q.shape[-1] ** -0.5,
    probabilities=naive.softmax,
):
    def wrong(Q, K, V):
        scores = scale(Q) * Q @ K.T
        mask = seen(scores.shape)
        if added is not None:
            return naive.softmax(scores + added * ~mask) @ V
        if not after:
            return probabilities(np.where(mask, scores, hidden)) @ V
        P = np.where(mask, naive.softmax(scores), 0.0)
        return (P / P.sum(axis=-1, keepdims=True) if renormalise else P) @ V

    return wrong


def _gradient_variant(
    delta=lambda P, dP: (P * dP).sum(axis=-1, keepdims=True),
    weigh=True,
    scale_q=True,
    scale_k=True,
    twice=False,
    untransposed=False,
    dv="P",
    scale_p=True,
    divided=False,
    swapped=False,
):
    def wrong(Q, K, V, dOut):
        scale = Q.shape[-1] ** -0.5
        P, dP = naive.softmax((scale if scale_p else 1.0) * Q @ K.T), dOut @ V.T
        if divided:
            scale = 1 / scale
        dS = (P if weigh else 1.0) * (dP - delta(P, dP))
        if twice:
            dS = dS * scale
        dV = {"P": P.T, "untransposed": P, "scores": (scale * Q @ K.T).T}[dv] @ dOut
        dK = (dS if untransposed else dS.T) @ Q
        dQ, dK = (scale if scale_q else 1.0) * dS @ K, (scale if scale_k else 1.0) * dK
        return (dQ, dV, dK) if swapped else (dQ, dK, dV)

    return wrong


OVERFLOWING = _softmax_variant(maximum=lambda scores: 0.0)
OVERFLOWS = "softmax overflows: large scores need each row's maximum subtracted, as in 1.1. (If you call your softmax, see its check.)"
SOFTMAX_MISTAKES = (
    Mistake(
        "no maximum", "exp of a large score overflows: subtract each row's maximum first, which changes no result.", 1,
        _softmax_variant(maximum=lambda scores: 0.0),
    ),
    Mistake(
        "one maximum for all rows", "one maximum was used for all rows: exp of a row that lies far below it is 0, and 0 / 0 is NaN.", 1,
        _softmax_variant(maximum=lambda scores: scores.max()),
    ),
    Mistake(
        "down the columns", "the sum runs down the columns: a row of scores belongs to one query, and each row must sum to 1.", 2,
        _softmax_variant(lambda scores: scores.max(axis=0, keepdims=True), lambda p: p.sum(axis=0, keepdims=True)),
    ),
    Mistake(
        "sum over everything", "everything was divided by one sum: each row has its own.", 2, _softmax_variant(total=lambda p: p.sum())
    ),
    Mistake(
        "no keepdims", "the row sums lost their axis, so they are divided along the wrong one: keepdims=True, or [:, None].", 2,
        _softmax_variant(total=lambda p: p.sum(axis=-1)),
    ),
    Mistake(
        "the maximum without keepdims", "the row maxima lost their axis, so they are subtracted along the wrong one: keepdims=True.", 1,
        _softmax_variant(maximum=lambda scores: scores.max(axis=-1)),
    ),
    Mistake(
        "no keepdims at all", "the row maxima and the row sums lost their axis, so NumPy puts them along the columns: keepdims=True.", 2,
        _softmax_variant(lambda scores: scores.max(axis=-1), lambda p: p.sum(axis=-1)),
    ),
    Mistake(
        "one maximum and one sum", "one maximum and one sum were used for the whole matrix: each row has its own.", 2,
        _softmax_variant(lambda scores: scores.max(), lambda p: p.sum()),
    ),
    Mistake(
        "sums of the columns", "the sum runs down the columns: each row must sum to 1.", 2,
        _softmax_variant(total=lambda p: p.sum(axis=0)),
    ),
    Mistake(
        "maxima of the columns", "the maxima are those of the columns: the scores of a row must all lose the same number.", 1,
        _softmax_variant(maximum=lambda scores: scores.max(axis=0)),
    ),
    Mistake(
        "maximum in the numerator alone", "the maximum is subtracted above the line and not below: the sum needs it too.", 1,
        lambda scores: np.exp(scores - scores.max(axis=-1, keepdims=True)) / np.exp(scores).sum(axis=-1, keepdims=True),
    ),
    Mistake(
        "minimum subtracted", "the minimum was subtracted: then no exponent is below 0, and large ones overflow. Subtract the maximum.", 1,
        _softmax_variant(maximum=lambda scores: scores.min(axis=-1, keepdims=True)),
    ),
    Mistake(
        "largest size subtracted", "the largest |score| was subtracted: a row of -1000s falls to -2000, where exp is 0, and 0 / 0 is NaN. "
        "Subtract the maximum.", 1,
        _softmax_variant(maximum=lambda scores: np.abs(scores).max(axis=-1, keepdims=True)),
    ),
    Mistake(
        "clipped", "the scores were clipped: two scores beyond the limit become equal. Subtract each row's maximum.", 1,
        lambda scores: naive.softmax(np.clip(scores, -700, 700)),
    ),
    *(
        Mistake("a little off", "a small number was added, or all was computed in float32: both change the result. Do neither.", 2, wrong)
        for wrong in (
            _softmax_variant(total=lambda p: p.sum(axis=-1, keepdims=True) + 1e-8),
            _softmax_variant(total=lambda p: p.sum(axis=-1, keepdims=True) + 1e-6),
            lambda scores: naive.softmax(np.asarray(scores, np.float32)),
        )
    ),
    Mistake("not divided", "the rows do not sum to 1: divide by the sum of each row.", 2, _softmax_variant(total=lambda p: 1.0)),
)  # fmt: skip
ATTENTION_MISTAKES = (
    Mistake("softmax overflows", OVERFLOWS, 2, _attention_variant(probabilities=OVERFLOWING)),
    Mistake("no scale", "the scores are not scaled: multiply them by 1 / sqrt(D).", 1, _attention_variant(lambda Q, K: 1.0)),
    Mistake(
        "scaled by D", "the scores are divided by D: the scale is its root, or is there twice.", 1,
        _attention_variant(lambda Q, K: 1 / Q.shape[-1]),
    ),
    Mistake(
        "multiplied by the root", "the scores are multiplied by sqrt(D) instead of divided.", 1,
        _attention_variant(lambda Q, K: Q.shape[-1] ** 0.5),
    ),
    Mistake(
        "scaled by the length", "the scale comes from the number of keys; it is 1 / sqrt(D), with D the head dim.", 1,
        _attention_variant(lambda Q, K: len(K) ** -0.5),
    ),
    Mistake(
        "scaled by the queries", "the scale comes from the number of queries; it is 1 / sqrt(D), with D the head dim.", 1,
        _attention_variant(lambda Q, K: len(Q) ** -0.5),
    ),
    Mistake(
        "scaled after softmax", "the scale comes after softmax, so the weights no longer sum to 1: it belongs to the scores.", 1,
        lambda Q, K, V: Q.shape[-1] ** -0.5 * naive.softmax(Q @ K.T) @ V,
    ),
    Mistake("K not transposed", "Q @ K multiplies a query with columns of K: transpose K.", 2, _attention_variant(transposed=False)),
    Mistake(
        "softmax over the queries", "the softmax runs over the queries: each query's weights over the *keys* must sum to 1.", 2,
        _attention_variant(probabilities=lambda scores: naive.softmax(scores.T).T),
    ),
    Mistake(
        "no softmax", "the scores weigh the values as they are: softmax is missing.", 2,
        _attention_variant(probabilities=lambda scores: scores),
    ),
)  # fmt: skip
CAUSAL_MISTAKES = (
    Mistake(
        "mask after softmax", "the mask comes after softmax: what is left of a row no longer sums to 1. Hide scores, then softmax.", 1,
        _causal_variant(after=True),
    ),
    Mistake(
        "hidden scores are 0", "hidden scores were set to 0, and exp(0) is 1: a hidden key keeps its weight. Use -inf.", 1,
        _causal_variant(hidden=0.0),
    ),
    Mistake(
        "hidden scores are small", "hidden scores were set to a number that is not small enough: large scores lie below it. Use -inf.", 1,
        _causal_variant(hidden=-100.0),
    ),
    *(
        Mistake(
            "hidden scores are small",
            "hidden scores were set to a number that is not small enough: large scores lie below it. Use -inf.", 1,
            _causal_variant(hidden=hidden),
        )
        for hidden in (-1e3, -1e4, -1e5, -1e6, -1e9)
    ),
    *(
        Mistake(
            "a number added to hidden scores", "what is added to hidden scores is not small enough. Use -inf.", 1,
            _causal_variant(added=added),
        )
        for added in (-1e2, -1e3, -1e4, -1e5, -1e6, -1e9)
    ),
    Mistake(
        "infinity times 0", "0 times infinity is NaN: do not multiply a mask by -inf, but choose with np.where(mask, scores, -np.inf).", 1,
        _causal_variant(added=-np.inf),
    ),
    Mistake(
        "normalised again", "the mask comes after softmax, and the rows are divided again: where a hidden score is far above the others, "
        "all that is seen has become 0, and 0 / 0 is NaN. Hide scores, then softmax.", 1,
        _causal_variant(after=True, renormalise=True),
    ),
    Mistake(
        "mask inverted", "what may be seen is hidden, and the future is seen: np.where(mask, a, b) takes a where the mask is True.", 2,
        _causal_variant(lambda shape: np.triu(np.ones(shape, bool), 1)),
    ),
    Mistake("no scale", "the scores are not scaled: multiply them by 1 / sqrt(D), as in 1.2.", 1, _causal_variant(scale=lambda Q: 1.0)),
    Mistake(
        "softmax over the queries", "the softmax runs over the queries: each query's weights over the *keys* must sum to 1.", 1,
        _causal_variant(probabilities=lambda scores: naive.softmax(scores.T).T),
    ),
    Mistake(
        "blind to itself", "a token does not see itself: row i sees keys 0 to i, with i.", 2,
        _causal_variant(lambda shape: np.tril(np.ones(shape, bool), -1)),
    ),
    Mistake(
        "one key too many", "each row sees one key of the future.", 2, _causal_variant(lambda shape: np.tril(np.ones(shape, bool), 1))
    ),
    Mistake(
        "the future only", "the mask is the wrong way round: rows see the future and not the past.", 2,
        _causal_variant(lambda shape: np.triu(np.ones(shape, bool))),
    ),
    Mistake("no mask", "nothing is hidden.", 1, _causal_variant(lambda shape: np.ones(shape, bool))),
)  # fmt: skip
GRADIENT_MISTAKES = (
    Mistake(
        "delta forgotten", "softmax's gradient subtracts something from dP: in each row, the sum of P ∘ dP.", 1,
        _gradient_variant(delta=lambda P, dP: 0.0),
    ),
    Mistake(
        "delta down the columns", "the sum of P ∘ dP runs down the columns: it belongs to a row.", 1,
        _gradient_variant(delta=lambda P, dP: (P * dP).sum(axis=0, keepdims=True)),
    ),
    Mistake(
        "delta without P", "delta is the sum of P ∘ dP, weighted by P, not the sum of dP.", 1,
        _gradient_variant(delta=lambda P, dP: dP.sum(axis=-1, keepdims=True)),
    ),
    Mistake(
        "delta without keepdims", "the row sums of P ∘ dP lost their axis, so NumPy puts them along the columns: keepdims=True.", 1,
        _gradient_variant(delta=lambda P, dP: (P * dP).sum(axis=-1)),
    ),
    Mistake(
        "one delta for all rows", "delta is one number for the whole matrix: each row has its own sum of P ∘ dP.", 1,
        _gradient_variant(delta=lambda P, dP: (P * dP).sum()),
    ),
    Mistake(
        "delta a mean", "delta was divided by the number of keys: P is the weight already, so take the sum of P ∘ dP.", 1,
        _gradient_variant(delta=lambda P, dP: (P * dP).mean(axis=-1, keepdims=True)),
    ),
    Mistake(
        "delta the plain mean", "delta is the average of dP weighted by P, the sum of P ∘ dP, not the plain average.", 1,
        _gradient_variant(delta=lambda P, dP: dP.mean(axis=-1, keepdims=True)),
    ),
    Mistake(
        "delta added", "delta is added to dP: subtract it.", 1,
        _gradient_variant(delta=lambda P, dP: -(P * dP).sum(axis=-1, keepdims=True)),
    ),
    Mistake(
        "softmax of unscaled scores", "P is the softmax of scores without the scale: P = softmax(scale · Q Kᵀ).", 2,
        _gradient_variant(scale_p=False),
    ),
    Mistake(
        "no scale anywhere", "the scale is nowhere: neither in P = softmax(scale · Q Kᵀ), nor in dQ and dK.", 2,
        _gradient_variant(scale_p=False, scale_q=False, scale_k=False),
    ),
    Mistake("divided by the scale", "dQ and dK are divided by the scale: multiply.", 2, _gradient_variant(divided=True)),
    Mistake("dK and dV swapped", "dK and dV are swapped: return dQ, dK, dV.", 2, _gradient_variant(swapped=True)),
    Mistake("dS without P", "dS is P ∘ (dP − delta): the factor P is missing.", 1, _gradient_variant(weigh=False)),
    Mistake("no scale in dQ", "dQ lacks the scale: the scores were scale · Q Kᵀ.", 2, _gradient_variant(scale_q=False)),
    Mistake("no scale in dK", "dK lacks the scale: the scores were scale · Q Kᵀ.", 2, _gradient_variant(scale_k=False)),
    Mistake("no scale", "dQ and dK lack the scale: the scores were scale · Q Kᵀ.", 2, _gradient_variant(scale_q=False, scale_k=False)),
    Mistake("scale twice", "the scale is there twice: in dS, and again in dQ and dK.", 2, _gradient_variant(twice=True)),
    Mistake("dK not transposed", "dK sums over the queries: dSᵀ Q.", 2, _gradient_variant(untransposed=True)),
    Mistake("dV not transposed", "dV sums over the queries: Pᵀ dOut.", 2, _gradient_variant(dv="untransposed")),
    Mistake("dV from scores", "dV is Pᵀ dOut, with the probabilities, not the scores.", 2, _gradient_variant(dv="scores")),
)  # fmt: skip

TASKS = (
    Task("1.1", "a stable softmax", "softmax", 20, softmax_cases, compare_softmax, SOFTMAX_MISTAKES),
    Task("1.2", "attention", "attention", 25, attention_cases, compare_attention, ATTENTION_MISTAKES),
    Task("1.3", "a causal mask", "causal_attention", 20, causal_cases, compare_causal, CAUSAL_MISTAKES),
    Task("1.4", "the gradients", "gradients", 35, gradient_cases, compare_gradients, GRADIENT_MISTAKES),
)
