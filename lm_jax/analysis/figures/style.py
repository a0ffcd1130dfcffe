"""The look of every figure, said once: letters, lines, widths and colors.

Sizes run through viridis; what has no order has hues of Okabe and Ito, told apart with any color vision
(https://jfly.uni-koeln.de/color/), and a marker of its own, so that color is never all that tells.
"""

import matplotlib as mpl
import numpy as np

FORMATS = ("png", "svg", "pdf")
INK, GREY = "#1a1a1a", "#767676"
TEXT_WIDTH = 5.5  # inches, of a NeurIPS page

STYLE = {
  "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
  "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.3,
  "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.5, "axes.axisbelow": True,
  "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "savefig.dpi": 220,
  # Text stays text in the vector formats; a fixed salt makes equal data give equal files.
  "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "lm_jax", "figure.constrained_layout.use": True,
}  # fmt: skip

# Hues of Okabe and Ito, dark ones first.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", INK, "#E69F00", "#56B4E9")
# Families beside the main one: those hues that viridis does not pass through, and markers to go with them.
OTHERS = ("#D55E00", "#CC79A7", "#56B4E9", "#E69F00")
OTHER_MARKERS = ("D", "s", "^", "v", "P")
# The same markers by plotly's names.
OTHER_SYMBOLS = ("diamond", "square", "triangle-up", "triangle-down", "cross")
MARKERS, LINES = "osD^vP*", ("-", "--", ":", "-.")


def palette(n: int, name: str = "viridis", low: float = 0.0, high: float = 0.85) -> list[str]:
  """Returns n hex colors in order; the ends that a light or a dark page would swallow are left out."""
  where = [(low + high) / 2] if n == 1 else np.linspace(low, high, n)
  return [mpl.colors.to_hex(mpl.colormaps[name](x)) for x in where]
