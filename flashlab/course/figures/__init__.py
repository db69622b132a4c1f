"""What lessons draw and what learners move. One message a figure, one meaning a colour, alt text on every picture."""

from flashlab.course.figures.style import COLORS, use_style
from flashlab.course.figures.view import explore, show

__all__ = ["COLORS", "explore", "show", "use_style"]
