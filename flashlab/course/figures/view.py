"""How a figure reaches the page: as a picture with alt text, or as a picture that follows its controls."""

import base64
import html
import io

import matplotlib.pyplot as plt
import PIL.Image
import PIL.ImageChops
from IPython.display import display

MOST_OFF = 24  # of 255, at the edge of a letter: nobody sees it


class Picture:
    """A PNG with alt text. (IPython's own Image learned alt texts after 7.34, which is Colab's version.)"""

    def __init__(self, figure, alt):
        self.alt, self.width, self.encoded = alt, int(figure.get_figwidth() * 96), base64.b64encode(_png(figure)).decode()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": self.encoded, "text/plain": "<picture>"}, {"image/png": {"alt": self.alt, "width": self.width}}

    def as_html(self):
        style = "max-width: 100%; height: auto"  # a narrow page shrinks it, as it does a picture without controls
        return f'<img alt="{html.escape(self.alt)}" width="{self.width}" style="{style}" src="data:image/png;base64,{self.encoded}">'


def show(figure, alt):
    """A figure as a picture with alt text. End a cell with it.

    alt: the figure's message in one or two sentences, for whoever cannot see it.
    """
    return Picture(figure, alt)


def explore(draw, alt, **controls):
    """Display draw(**values) above one control a keyword; the picture follows as they move.

    draw: returns a matplotlib figure.
    controls: name=(lowest, highest, step, start) for a slider, or name=[first, second, …] for a choice.
    Works with ipywidgets 7.7 (Colab) and 8. Put a static picture of the same figure in the cell before.
    """
    import ipywidgets as widgets

    picture = widgets.HTML()
    inputs = {name: _control(widgets, name, values) for name, values in controls.items()}
    display(widgets.VBox([*inputs.values(), picture]))

    def redraw(_=None):
        picture.value = Picture(draw(**{name: control.value for name, control in inputs.items()}), alt).as_html()

    for control in inputs.values():
        control.observe(redraw, names="value")
    redraw()


def _control(widgets, name, values):
    label = name.replace("_", " ")
    wide = {"description_width": "initial"}
    if isinstance(values, tuple):
        lowest, highest, step, start = values
        return widgets.IntSlider(value=start, min=lowest, max=highest, step=step, description=label, style=wide, continuous_update=False)
    return widgets.SelectionSlider(value=values[0], options=list(values), description=label, style=wide, continuous_update=False)


def _png(figure):
    """A figure as PNG bytes, without its unused alpha channel and packed tightly: notebooks carry these.

    Most pictures look the same in 256 colours, and take a third of the bytes.
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    plt.close(figure)
    picture = PIL.Image.open(drawn).convert("RGB")
    fewer = picture.quantize(256, dither=PIL.Image.Dither.NONE)
    off = max(most for _, most in PIL.ImageChops.difference(picture, fewer.convert("RGB")).getextrema())
    (fewer if off <= MOST_OFF else picture).save(packed, format="png", optimize=True)
    return packed.getvalue()
