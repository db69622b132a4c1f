"""One look for every lesson: colours that colour-blind readers can tell apart, and that mean the same thing everywhere."""

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap

COLORS = {
    "Q": "#0072B2",  # blue
    "K": "#E69F00",  # orange
    "V": "#009E73",  # green
    "scores": "#8A8F98",  # grey
    "out": "#8E5AA8",  # purple
    "bad": "#D55E00",  # vermilion: what hurts
    "good": "#0072B2",
    "ink": "#24292F",
    "faint": "#D8DEE4",
}

SCORES_MAP = LinearSegmentedColormap.from_list("scores", ["#FFFFFF", "#B8BDC6", "#3A3F47"])  # white = 0, dark = much


def use_style():
    """Light paper under every figure, so that it reads the same in dark mode; fonts that survive a small screen."""
    mpl.rcParams.update(
        {
            "figure.figsize": (8, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "axes.edgecolor": COLORS["scores"],
            "axes.labelcolor": COLORS["ink"],
            "axes.titlelocation": "left",
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(color=[COLORS[name] for name in ("Q", "K", "V", "out", "bad", "scores")]),
            "xtick.color": COLORS["ink"],
            "ytick.color": COLORS["ink"],
            "text.color": COLORS["ink"],
            "font.size": 11,
            "legend.frameon": False,
            "svg.hashsalt": "flashlab",
        }
    )
