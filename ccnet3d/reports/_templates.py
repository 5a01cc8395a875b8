"""The jinja2 templates of the pages, and the filters that write numbers in them."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from ccnet3d.evaluation import Interval

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_DASH, _MINUS = "\u2013", "\u2212"


def load_template(name: str) -> Template:
    """Return a template of the folder ``templates``.

    Every value is escaped, and a name that a page does not fill is an error (:class:`jinja2.UndefinedError`).
    """
    return _environment().get_template(name)


def template_text(name: str) -> str:
    """Return a file of the folder ``templates`` as it is, such as a style sheet that other pages share."""
    return (files("ccnet3d.reports") / "templates" / name).read_text(encoding="utf-8")


def percent(share: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a share in percent, a dash for None and NaN.

    >>> percent(0.12345), percent(0.5, 0), percent(0.01, signed=True), percent(float("nan")) == "\u2013"
    ('12.35', '50', '+1.00', True)
    """
    if share is None or math.isnan(share):
        return _DASH
    rounded = round(100 * share, digits) + 0.0  # no -0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", _MINUS)


def interval_text(interval: Interval | None, *, signed: bool = False) -> str:
    """Return an interval in percent, a dash for None.

    >>> interval_text(Interval(0.5, 0.625))
    '50.0 to 62.5'
    """
    return _DASH if interval is None else " to ".join(percent(end, 1, signed=signed) for end in interval)


def p_value_text(p: float | None) -> str:
    """Return a p-value with three decimals, a dash for None.

    >>> p_value_text(0.0421), p_value_text(0.0005)
    ('0.042', '< 0.001')
    """
    if p is None:
        return _DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ccnet3d.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "interval": interval_text, "p_value": p_value_text}
    # Of tojson, which also keeps "</script>" and "<!--" out of script elements.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment
