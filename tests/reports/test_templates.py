from __future__ import annotations

import json
import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from ccnet3d.reports._templates import _environment, interval_text, load_template, p_value_text, percent

ALERT = "<script>alert(1)</script>"


@pytest.mark.parametrize("name", ["base.html", "video.html", "evaluation.html"])
def test_a_misspelled_slot_is_an_error(name: str) -> None:
    with pytest.raises(UndefinedError, match="'facts' is undefined"):
        load_template(name).render(title="a title", fact="misspelled")
    with pytest.raises(UndefinedError, match="has no attribute 'nmae'"):
        _environment().from_string("{{ row.nmae }}").render(row=object())


def test_values_are_escaped() -> None:
    page = load_template("base.html").render(title=ALERT, facts=f'"{ALERT}"')
    assert ALERT not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # title, h1 and facts


@pytest.mark.parametrize("text", [ALERT, "<!-- <script>", "]]>", "&amp;", 'it\'s "quoted"', "\u2028"])
def test_json_stays_json_in_scripts_and_attributes(text: str) -> None:
    template = _environment().from_string("<script>{{ data|tojson }}</script>|<p data-x='{{ data|tojson }}'>")
    script, attribute = template.render(data={"b": text, "a": 1}).split("|")
    packed = script.removeprefix("<script>").removesuffix("</script>")
    assert attribute == f"<p data-x='{packed}'>"
    assert not set("<>&'") & set(packed)
    assert list(json.loads(packed).items()) == [("b", text), ("a", 1)]


def test_json_without_numbers_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _environment().from_string("{{ data|tojson }}").render(data=float("nan"))


def test_jinja2_is_imported_when_a_page_is_written() -> None:
    code = "import sys, ccnet3d.reports; assert not {'jinja2', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numbers_as_text() -> None:
    assert [percent(x) for x in (0.12345, None, float("nan"), 1)] == ["12.35", "\u2013", "\u2013", "100.00"]
    assert [percent(x, signed=True) for x in (0.01, -0.01, -1e-9, 0)] == ["+1.00", "\u22121.00", "0.00", "0.00"]
    assert interval_text(None) == p_value_text(None) == "\u2013"
    assert interval_text((-0.01, 0.02), signed=True) == "\u22121.0 to +2.0"
    assert [p_value_text(p) for p in (0.0005, 0.001, 0.25, 1)] == ["< 0.001", "0.001", "0.250", "1.000"]
