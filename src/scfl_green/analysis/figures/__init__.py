"""Figures that are readable in print, on a phone and by the colour-blind."""

from scfl_green.analysis.figures.front import beaten_by_none as beaten_by_none
from scfl_green.analysis.figures.front import front as front
from scfl_green.analysis.figures.methods import bars as bars
from scfl_green.analysis.figures.methods import ratios as ratios
