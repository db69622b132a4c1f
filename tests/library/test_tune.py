"""`flashlab tune`: what is chosen, what is kept, and when it is used. The GPU is played by a table of times."""

import json

import pytest
import torch

pytest.importorskip("triton")

from flashlab.bench import tune
from flashlab.kernels import configs, tuned
from flashlab.spec import Extras, Spec

PLAIN = Spec(1.0)
CASE = tune.Case("forward", 64, torch.float16, False, True)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU by name, and a cache folder of its own."""
    monkeypatch.setenv("FLASHLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: "NVIDIA Pretend 9000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (8, 6))


def pretend(times, wrong=(), impossible=()):
    """(runner, time) for `best`: tiles take `times`, the present choice takes 1.0."""
    last = {}

    def runner(case):
        def run(tiles=None):
            if tiles in impossible:
                raise RuntimeError("out of resource: shared memory")
            last["ms"] = times.get(tiles, 2.0) if tiles else 1.0
            return (torch.full((4,), float("nan") if tiles in wrong else 3.0, dtype=case.dtype),)

        return run

    def time(work):
        work()
        return last["ms"]

    return runner, time


def test_the_fastest_is_chosen_and_said_beside_what_was_before():
    assert tune.best(CASE, *pretend({(64, 64, 4, 3): 0.5, (64, 64, 4, 2): 0.6})) == ((64, 64, 4, 3), 0.5, 1.0)


def test_less_than_noise_changes_nothing():
    assert tune.best(CASE, *pretend({(64, 64, 4, 3): 0.98})) == (None, 1.0, 1.0)


def test_what_is_wrong_or_impossible_is_left_out():
    times = {(64, 64, 4, 3): 0.1, (64, 64, 4, 2): 0.2, (64, 32, 4, 1): 0.3}
    chosen = tune.best(CASE, *pretend(times, wrong={(64, 64, 4, 3)}, impossible={(64, 64, 4, 2)}))
    assert chosen == ((64, 32, 4, 1), 0.3, 1.0)


def test_where_nothing_runs_nothing_is_chosen():
    assert tune.best(CASE, *pretend({}, impossible=set(tune.CANDIDATES["forward"]))) == (None, 1.0, 1.0)


def test_every_kind_of_call_is_a_case():
    cases = tune.cases([64, 128], [torch.float16])
    assert len(cases) == 3 * 2 * 2 * 2 and len(set(map(tune.call_of, cases))) == len(cases)
    lengths = {few: Spec(1.0) for few in (True, False)}
    for few, spec in lengths.items():
        value = torch.empty(1, 1, tune.SEQLENS[few], 64, device="meta")
        assert configs.has_few_keys(value, spec, Extras()) is few  # the lengths that are measured are of the kind they stand for


def test_what_is_saved_is_found_and_added_to(gpu):
    call = tune.call_of(CASE)
    assert tuned.measured() == {}
    tuned.save({call: (64, 64, 4, 3)})
    other = tune.call_of(tune.Case("dq", 128, torch.bfloat16, True, False))
    file = tuned.save({other: (32, 32, 4, 1)})
    assert tuned.measured() == {call: (64, 64, 4, 3), other: (32, 32, 4, 1)}
    assert [path.name for path in file.parent.iterdir()] == ["tiles-nvidia-pretend-9000.json"]  # and no temporary file is left


@pytest.mark.parametrize("name", ["format", "device", "capability", "kernels", "triton"])
def test_other_circumstances_are_not_used(gpu, name):
    file = tuned.save({tune.call_of(CASE): (64, 64, 4, 3)})
    record = json.loads(file.read_text())
    record[name] = "another"
    file.write_text(json.dumps(record))
    assert tuned.measured() == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"measured": 3}'])
def test_a_damaged_file_is_as_none(gpu, text):
    file = tuned.save({tune.call_of(CASE): (64, 64, 4, 3)})
    file.write_text(text)
    assert tuned.measured() == {}


def test_measured_tiles_serve_plain_calls_alone(gpu, monkeypatch):
    tuned.save({tune.call_of(CASE): (32, 32, 4, 1)})
    configs._measured_on.cache_clear()
    monkeypatch.setattr(configs, "_measured", lambda query: configs._measured_on(None))
    monkeypatch.setattr(configs, "target_of", lambda query: (9, 0))
    query = torch.empty(1, 1, 100, 40, dtype=torch.float16)

    def chosen(spec=PLAIN, query=query):
        return configs.choose("forward", query, query, spec, Extras())

    measured = configs.Config(32, 32, 4, 1)
    assert chosen() == measured
    with monkeypatch.context() as turing:  # there the same tiles go through tensor cores
        turing.setattr(configs, "target_of", lambda query: (7, 5))
        assert chosen() == configs.Config(32, 32, 4, 1, arch="sm80")
    others = [Spec(1.0, True), Spec(1.0, softcap=2.0), Spec(1.0, dropout_p=0.1)]
    assert all(chosen(spec) != measured for spec in others)
    assert chosen(query=query.bfloat16()) != measured and chosen(query=query.new_empty(1, 1, 4000, 40)) != measured
    configs._measured_on.cache_clear()
