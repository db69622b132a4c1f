"""How figures reach the page: as pictures with alt text, and as pictures that follow their controls."""

import matplotlib.pyplot as plt
import pytest

from flashlab.course import figures
from flashlab.course.figures import explore, show


def draw(bars=3, color="Q"):
    figure, axes = plt.subplots()
    axes.bar(range(bars), range(bars), color=figures.COLORS[color])
    return figure


def test_a_picture_is_a_png_with_alt_text():
    data, metadata = show(draw(), alt="Three bars, each <taller> than the last.")._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR") and data["text/plain"] == "<picture>"
    assert metadata["image/png"]["alt"] == "Three bars, each <taller> than the last."
    assert not plt.get_fignums()  # nothing is left open


def test_alt_text_is_escaped_in_html():
    assert 'alt="&lt;b&gt; &quot;x&quot;"' in show(draw(), alt='<b> "x"').as_html()


@pytest.fixture
def shown(monkeypatch):
    boxes = []
    monkeypatch.setattr("flashlab.course.figures.view.display", boxes.append)
    return boxes


def test_the_picture_follows_its_controls(shown):
    explore(draw, alt="bars", bars=(1, 5, 1, 2), color=["Q", "K"])
    slider, choice, picture = shown[0].children
    assert (slider.value, choice.value) == (2, "Q")
    seen = [picture.value]
    slider.value = 4
    seen.append(picture.value)
    choice.value = "K"
    seen.append(picture.value)
    assert len(set(seen)) == 3 and all('<img alt="bars"' in value for value in seen)
