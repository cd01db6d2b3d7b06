"""Colours, dashes and markers: told apart by the colour-blind, on paper and in grey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

# Okabe & Ito, Color Universal Design (2008); yellow last, it is faint on paper; black follows the theme's ink
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "ink", "#F0E442")
DASHES: Final[tuple[Any, ...]] = ("-", (0, (6, 2)), (0, (1.2, 1.4)), (0, (7, 2, 1.5, 2)), (0, (3, 1.2)))
MARKERS: Final = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; on a page the background is transparent and ``halo`` parts markers from lines."""

    ink: str
    faint: str
    grid: str
    background: str
    halo: str


LIGHT: Final = Theme(ink="#1b2430", faint="#5d6b7a", grid="#e4e8ed", background="none", halo="#ffffff")
DARK: Final = Theme(ink="#e8edf3", faint="#9fb0c0", grid="#2a3540", background="none", halo="#171e26")
PAPER: Final = Theme(ink="#1b2430", faint="#5d6b7a", grid="#e4e8ed", background="white", halo="#ffffff")


@dataclass(frozen=True)
class Style:
    """How one arm is drawn; lengths 8, 5 and 7 share no factor, so 280 arms differ, in grey too."""

    color: str
    dash: Any
    marker: str
    glyph: str

    def ink(self, theme: Theme) -> str:
        return theme.ink if self.color == "ink" else self.color


def style(index: int) -> Style:
    """The style of the arm with this place in its setting."""
    marker, glyph = MARKERS[index % len(MARKERS)]
    return Style(PALETTE[index % len(PALETTE)], DASHES[index % len(DASHES)], marker, glyph)
