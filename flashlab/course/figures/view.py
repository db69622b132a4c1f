"""How a figure reaches the page: as a picture with alt text, or as a picture that follows its controls."""

import base64
import html
import io

import matplotlib.pyplot as plt
from IPython.display import Image, display


def show(figure, alt):
    """A figure as a picture with alt text. End a cell with it.

    alt: the figure's message in one or two sentences, for whoever cannot see it.
    """
    return Image(data=_png(figure), alt=alt, format="png", width=int(figure.get_figwidth() * 96))


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
        figure = draw(**{name: control.value for name, control in inputs.items()})
        width = int(figure.get_figwidth() * 96)
        encoded = base64.b64encode(_png(figure)).decode()
        picture.value = f'<img alt="{html.escape(alt)}" width="{width}" src="data:image/png;base64,{encoded}">'

    for control in inputs.values():
        control.observe(redraw, names="value")
    redraw()


def _control(widgets, name, values):
    label = name.replace("_", " ")
    wide = {"description_width": "initial"}
    if isinstance(values, tuple):
        lowest, highest, step, start = values
        return widgets.IntSlider(
            value=start, min=lowest, max=highest, step=step, description=label, style=wide, continuous_update=False
        )
    return widgets.SelectionSlider(value=values[0], options=list(values), description=label, style=wide, continuous_update=False)


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
