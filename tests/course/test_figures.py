"""How figures reach the page: as pictures with alt text, and as pictures that follow their controls."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from flashlab.course import figures
from flashlab.course.figures import explore, show, speed
from flashlab.course.records import committed


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


def test_the_committed_record_becomes_pictures(tmp_path):
    written = speed.draw_all(committed(), tmp_path / "a.json")
    assert [path.name for path in written] == ["a-tflops.png", "a-ratios.png", "a-roofline.png"] and all(path.exists() for path in written)
    for head_dim in (64, 128):
        for attention in ("causal", "full"):
            axes = speed.draw_changes(head_dim, attention).axes[0]
            assert len(axes.patches) == 8 and axes.patches[0].get_width() == max(bar.get_width() for bar in axes.patches)
    plt.close("all")


def test_of_another_machine_there_is_no_record():
    with pytest.raises(ValueError, match="abacus"):
        committed("abacus")


def test_a_picture_has_256_colours_where_nobody_sees_it():
    many, axes = plt.subplots()
    axes.imshow(np.random.default_rng(0).random((40, 40, 3)))
    encoded = (show(figure, alt="Some colours, or many.").encoded for figure in (draw(), many))
    assert [PIL.Image.open(io.BytesIO(base64.b64decode(png))).mode for png in encoded] == ["P", "RGB"]
