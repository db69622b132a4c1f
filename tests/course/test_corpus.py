"""Where the text comes from, and that what a model is judged on was not in what it learned from."""

from pathlib import Path

import pytest

from flashlab.course import corpus


@pytest.fixture(scope="module")
def text():
    return corpus.load()


def test_there_is_enough_of_each(text):
    assert len(text.train) > 2_000_000 and len(text.validation) > 100_000 and len(text.out_of_distribution) > 100_000


def test_no_file_is_on_both_sides(text):
    assert not set(text.train_files) & set(text.validation_files)
    assert not set(text.left_out) & (set(text.train_files) | set(text.validation_files))


@pytest.mark.parametrize("side", ["validation", "out_of_distribution"])
def test_no_long_passage_of_train_is_judged(text, side):
    """By another way than the corpus's own: every 160 bytes of the other side, at every 10th position, looked up in train."""
    other = getattr(text, side)
    boundaries = b"\n\n" if side == "out_of_distribution" else b"\n"
    assert boundaries in other
    step, length = 10, corpus.PASSAGE - 10
    windows = {hash(other[start : start + length]) for start in range(0, len(other) - length, step)}
    train = text.train
    found = [start for start in range(len(train) - length) if hash(train[start : start + length]) in windows]
    assert not found, train[found[0] : found[0] + length]


def test_the_search_finds_a_planted_passage(text):
    known = corpus.passages(text.train)
    stolen = text.train[12_345 : 12_345 + corpus.PASSAGE]
    assert corpus.repeats(b"an innocent beginning " + stolen + b" and end", known)
    assert not corpus.repeats(b"an innocent text of some length " * 20, known)


def test_a_file_stays_on_its_side_from_one_python_to_the_next(text):
    """The split is part of what a loss means: whoever changes it sees it here."""
    candidates = set(text.validation_files) | set(text.left_out)
    assert {"json/tool.py", "pkgutil.py", "gzip.py"} <= candidates
    assert {"json/decoder.py", "heapq.py", "bisect.py", "argparse.py"} <= set(text.train_files)


def test_the_prose_is_not_in_train_as_a_source_file(text):
    assert not any(name.startswith("pydoc_data") for name in text.train_files + text.validation_files)


def test_provenance_names_source_and_licence(text):
    words = text.provenance()
    assert "standard library" in words and "Python Software Foundation License" in words and "https://" in words
    assert all(not Path(name).is_absolute() for name in text.train_files)
