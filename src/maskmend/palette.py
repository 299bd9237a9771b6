"""Colours that are told apart with any colour vision."""

OKABE_ITO = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
"""Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), in an order that begins with those
that stand out on grey."""
