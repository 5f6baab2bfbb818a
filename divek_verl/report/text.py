"""How text and numbers are written on the page."""

from divek_verl.templates import visible

NAME_CHARACTERS = 120


def cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def shown(name: str) -> str:
    """A name as the page's scripts get it: marks made visible, a very long one cut."""
    return visible(cut(name, NAME_CHARACTERS))


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def points_changed(change: float | None) -> str:
    """Percentage points with a sign; a change that rounds to nothing has none."""
    if change is None:
        return "–"
    rounded = round(100 * change, 1)
    return "±0.0" if rounded == 0 else f"{'+' if rounded > 0 else '−'}{abs(rounded):.1f}"
