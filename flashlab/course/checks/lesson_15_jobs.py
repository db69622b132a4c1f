"""Exercise 15's jobs and multiprocessors: when the last job is done, in three ways, and how that goes wrong."""

from flashlab.course.checks.edited import mistake


def last_ends(lengths, processors, begin):
    """When all is done: (a program for each job, dealt out beforehand, taken one after the other). See `flashlab.course.schedule`."""
    each, taken = [0] * processors, [begin] * processors
    for length in lengths:
        each[each.index(min(each))] += begin + length
        taken[taken.index(min(taken))] += length
    dealt = [begin + sum(lengths[p::processors]) for p in range(processors)]
    return max(each), max(dealt), max(taken)


def _ends(name, sentence, hint, *changes):
    return mistake(last_ends, name, sentence, hint, *changes)


EACH, TAKEN, DEALT, ENDS = (
    "each[each.index(min(each))] += begin + length",
    "taken[taken.index(min(taken))] += length",
    "begin + sum(lengths[p::processors])",
    "max(each), max(dealt), max(taken)",
)
LOOP, NUMBERED = "for length in lengths:", "for n, length in enumerate(lengths):"
JOB_MISTAKES = (
    _ends(
        "no program begins",
        "with a program for each job, every one of them begins: `begin` is missing there.",
        1,
        EACH,
        "each[each.index(min(each))] += length",
    ),
    _ends(
        "the first program alone",
        "with a program for each job, every one of them begins, not only a multiprocessor's first.",
        1,
        "[0] * processors, [begin]",
        "[begin] * processors, [begin]",
        EACH,
        "each[each.index(min(each))] += length",
    ),
    _ends(
        "the first twice",
        "with a program for each job there are as many beginnings as jobs: one too many was counted.",
        1,
        "[0] * processors, [begin]",
        "[begin] * processors, [begin]",
    ),
    _ends("nothing begins, dealt out", "a program that stays begins, too, once: dealt out, that is missing.", 1, DEALT, DEALT[8:]),
    _ends(
        "each job begins, dealt out",
        "a program that stays begins once, not for each of the jobs that were dealt to it.",
        1,
        DEALT,
        "sum(begin + length for length in lengths[p::processors])",
    ),
    _ends("nothing begins, taken", "a program that stays begins, too, once: that is missing where jobs are taken.", 1, "[begin]", "[0]"),
    _ends(
        "each job begins, taken",
        "a program that stays begins once, not for each of the jobs that it takes.",
        1,
        "[begin]",
        "[0]",
        TAKEN,
        "taken[taken.index(min(taken))] += begin + length",
    ),
    _ends(
        "the first taken begins twice",
        "a program that stays begins once: it does so before its first job, and not with each job again.",
        2,
        TAKEN,
        "taken[taken.index(min(taken))] += begin + length",
    ),
    _ends(
        "nothing ever begins",
        "`begin` is missing everywhere: a program needs it before its first job.",
        1,
        "[begin]",
        "[0]",
        "begin + ",
        "",
    ),
    _ends(
        "nothing begins where programs stay",
        "a program that stays begins, too, once: that is missing, dealt out and taken.",
        1,
        "[begin]",
        "[0]",
        DEALT,
        DEALT[8:],
    ),
    _ends(
        "each job begins where programs stay",
        "a program that stays begins once, not for each of its jobs.",
        1,
        DEALT,
        "sum(begin + length for length in lengths[p::processors])",
        "[begin]",
        "[0]",
        TAKEN,
        "taken[taken.index(min(taken))] += begin + length",
    ),
    _ends(
        "nobody's first program begins",
        "with a program for each job, every one of them begins, also a multiprocessor's first.",
        1,
        "each, taken = [0]",
        "each, taken = [-begin]",
    ),
    _ends(
        "rounds, dealt out",
        "programs do not wait for each other between rounds: each goes on with its next job at once.",
        2,
        "[begin + sum(lengths[p::processors]) for p in range(processors)]",
        "[begin + sum(max(lengths[r : r + processors]) for r in range(0, len(lengths), processors))]",
    ),
    _ends(
        "rounds, a program for each",
        "nobody waits for a round to end: the next program begins as soon as one multiprocessor is free.",
        2,
        "max(each)",
        "sum(begin + max(lengths[r : r + processors]) for r in range(0, len(lengths), processors))",
    ),
    _ends(
        "rounds, taken",
        "nobody waits for a round to end: who has done a job takes the next at once.",
        2,
        "max(taken)",
        "begin + sum(max(lengths[r : r + processors]) for r in range(0, len(lengths), processors))",
    ),
    _ends(
        "blocks",
        "dealt out, multiprocessor p does the jobs p, p + processors, p + 2 · processors, …, not a block of neighbours.",
        2,
        "lengths[p::processors]",
        "lengths[p * -(-len(lengths) // processors) : (p + 1) * -(-len(lengths) // processors)]",
    ),
    _ends(
        "whole rounds",
        "dealt out, the last round counts, too, where there are not enough jobs for all.",
        2,
        "lengths[p::processors]",
        "lengths[: len(lengths) // processors * processors][p::processors]",
    ),
    _ends(
        "programs dealt out",
        "with a program for each job, the next program begins where a multiprocessor is free first, not on each in turn.",
        2,
        LOOP,
        NUMBERED,
        "each.index(min(each))",
        "n % processors",
    ),
    _ends(
        "taken in turn",
        "who has done a job takes the next: multiprocessors do not come in turn.",
        2,
        LOOP,
        NUMBERED,
        "taken.index(min(taken))",
        "n % processors",
    ),
    _ends(
        "all in turn",
        "only what is dealt out goes to each in turn. Otherwise whoever is free first has the next job.",
        2,
        LOOP,
        NUMBERED,
        "each.index(min(each))",
        "n % processors",
        "taken.index(min(taken))",
        "n % processors",
    ),
    _ends(
        "who is free last",
        "the next job goes to whoever is free *first*, not last.",
        2,
        "index(min(",
        "index(max(",
    ),
    _ends(
        "from the last",
        "jobs come in the order of their numbers: here the last comes first.",
        1,
        LOOP,
        "for length in reversed(lengths):",
    ),
    _ends(
        "the shortest first",
        "jobs come in the order of their numbers: do not sort them.",
        1,
        "    each, taken",
        "    lengths = sorted(lengths)\n    each, taken",
    ),
    _ends(
        "sorted",
        "jobs come in the order of their numbers: do not sort them.",
        1,
        LOOP,
        "for length in sorted(lengths, reverse=True):",
    ),
    _ends(
        "sorted everywhere",
        "jobs come in the order of their numbers: do not sort them.",
        1,
        "    each, taken",
        "    lengths = sorted(lengths, reverse=True)\n    each, taken",
    ),
    _ends(
        "all times together",
        "when is the *last* one done? Times of different multiprocessors are not added.",
        2,
        ENDS,
        ENDS.replace("max", "sum"),
    ),
    _ends(
        "the mean",
        "when is the *last* one done? Not when they are done on average.",
        2,
        ENDS,
        "sum(each) / processors, sum(dealt) / processors, sum(taken) / processors",
    ),
    _ends("the first to be done", "when is the *last* one done? This is when the first is.", 2, ENDS, ENDS.replace("max", "min")),
    _ends(
        "the mean, where jobs are taken",
        "who takes jobs is not done at the same time as the others: the last of them may end much later than the mean.",
        2,
        "max(taken)",
        "begin + sum(lengths) / processors",
    ),
    _ends(
        "the first program alone, dealt out",
        "dealt out, the first program need not be the last to be done.",
        2,
        "max(dealt)",
        "dealt[0]",
    ),
    _ends(
        "where the last number is done",
        "all is done when the last *multiprocessor* is: the job with the last number may end before a longer one.",
        2,
        EACH,
        "p = each.index(min(each))\n        each[p] += begin + length",
        TAKEN,
        "t = taken.index(min(taken))\n        taken[t] += length",
        ENDS,
        "each[p], max(dealt), taken[t]",
    ),
    _ends(
        "one multiprocessor",
        "there are `processors` multiprocessors, which work at the same time: here one does it all.",
        1,
        "    each, taken",
        "    processors = 1\n    each, taken",
    ),
    _ends(
        "backwards",
        "the order of the three is: a program for each job, dealt out, taken.",
        2,
        ENDS,
        "max(taken), max(dealt), max(each)",
    ),
    _ends(
        "the first two",
        "the order of the three is: a program for each job, dealt out, taken.",
        2,
        ENDS,
        "max(dealt), max(each), max(taken)",
    ),
    _ends(
        "the last two",
        "the order of the three is: a program for each job, dealt out, taken.",
        2,
        ENDS,
        "max(each), max(taken), max(dealt)",
    ),
)
