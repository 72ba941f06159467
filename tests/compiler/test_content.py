"""Templates: what reaches a person, and what is refused before."""

from __future__ import annotations

from typing import Any

import pytest

from compiler.content import RenderError, Template, parse_template, parse_text, render, undefined_columns
from compiler.errors import DefinitionError
from compiler.template_language import FILTERS, HTML, failure

MJML = """---
subject: "Hi {{ contact.first_name }}, {{ discount }}% off"
preheader: For {{ contact.first_name }} & co
from: Shop <shop@acme.example>
group: news
vars: {cart_url: text, discount: {type: number, default: 10}}
---
<mjml><mj-body><mj-section><mj-column>
<mj-text>Hi {{ contact.first_name }}
{% if entry.count > 1 and entry.count < 9 %}<b>{{ entry.count }} things</b>{% endif %}</mj-text>
{% for item in entry.items %}<mj-text>{{ item.name }}</mj-text>{% endfor %}
<mj-button href="{{ cart_url }}">Buy</mj-button>
</mj-column></mj-section></mj-body></mjml>
"""
VALUES: dict[str, Any] = {
    "contact": {"first_name": "Inés <x>", "email": None},
    "entry": {"count": 2, "items": [{"name": "Tea & cup"}, {"name": "Pot"}]},
    "with": {"cart_url": "https://s.example/c?a=1&b=2"},
}


def mail(body: str, front: str = "subject: s\n") -> Template:
    return parse_template("t", {"html": f"---\n{front}---\n{body}"}, "templates/t")


def test_mjml_mail_is_complete() -> None:
    template = parse_template("cart", {"mjml": MJML}, "templates/cart")
    message = render(template, VALUES)
    assert message.subject == "Hi Inés <x>, 10% off"
    assert message.sender == "Shop <shop@acme.example>"
    assert message.html is not None
    assert "Hi Inés &lt;x&gt;" in message.html
    assert 'href="https://s.example/c?a=1&amp;b=2"' in message.html
    assert "For Inés &lt;x&gt; &amp; co" in message.html
    assert "zLiquid" not in message.html + message.text
    assert "Hi Inés <x> 2 things\n" in message.text
    assert "Tea & cup\n\nPot\n\nBuy (https://s.example/c?a=1&b=2)" in message.text
    assert template.group == template.info.group == "news"
    assert template.info.required == {"cart_url"}
    assert template.info.contact == {"first_name"}
    assert template.info.entry == {"count", "items"}


def test_subject_of_the_step_wins_and_one_is_needed() -> None:
    assert render(mail("x"), {}, subject="Mine").subject == "Mine"
    with pytest.raises(RenderError, match="no subject"):
        render(mail("x", ""), {})


@pytest.mark.parametrize("used", sorted(FILTERS - {"default", "date"}))
def test_no_filter_turns_a_missing_value_into_nothing(used: str) -> None:
    with pytest.raises(RenderError, match=r"^'contact\.secret' is missing$"):
        render(mail(f"{{{{ contact.secret | {used} }}}}"), {"contact": {"secret": None}})


def test_missing_is_false_in_if_and_replaceable_by_default() -> None:
    body = "{% if contact.nick %}{{ contact.nick }}{% else %}{{ contact.name | default: 'friend' }}{% endif %}"
    assert render(mail(body), {"contact": {"nick": None}}).html == "friend"


def test_reasons_never_quote_values() -> None:
    values = {"contact": {"name": "Mallory\r\nBcc: all@acme.example", "day": "Mallory", "url": "javascript:Mallory"}}
    for front, body in (
        ("subject: Hi {{ contact.name }}\n", "x"),
        ("subject: s\n", "{{ contact.day | date: '%Y' }}"),
        ("subject: s\n", '<a href="{{ contact.url }}">x</a>'),
        ("subject: s\n", "{{ contact.day | divided_by: 0 }}"),
        ("subject: s\n", "{{ contact.day | slice: contact.name }}"),
    ):
        with pytest.raises(RenderError) as caught:
            render(mail(body, front), values)
        assert "Mallory" not in caught.value.reason


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", " javascript:x", "data:text/html,x", "//evil.example", "/path", "vbscript:x", ""]
)
def test_links_from_values_are_web_or_mail(url: str) -> None:
    body = '<a href="{% if contact.vip %}{{ contact.url }}{% else %}https://a.example{% endif %}">x</a>'
    with pytest.raises(RenderError):
        render(mail(body), {"contact": {"vip": True, "url": url}})
    good = render(mail(body), {"contact": {"vip": True, "url": "mailto:a@b.example"}})
    assert good.html == '<a href="mailto:a@b.example">x</a>'
    assert good.text == "x (mailto:a@b.example)\n"


@pytest.mark.parametrize(
    "body",
    [
        "{% for a in (1..1000) %}{% for b in (1..1000) %}x{% endfor %}{% endfor %}",
        "{% assign x = 'aaaaaaaa' %}{% for i in (1..40) %}{% assign x = x | append: x %}{% endfor %}{{ x }}",
        "{% assign x = 9 %}{% for i in (1..900) %}{% assign x = x | times: x %}{% endfor %}",
        "{% for i in (1..900) %}" + "x" * 500 + "{% endfor %}",
        "{{ contact.long | replace: '', contact.long }}",
        "{{ contact.long | split: '' | join: contact.long }}",
        "{{ contact.day | date: '%99999999d' }}",
        "{% for i in (1..1000000000000) %}{% endfor %}",
    ],
)
def test_work_is_bounded(body: str) -> None:
    with pytest.raises(RenderError):
        render(mail(body), {"contact": {"long": "a" * 50_000, "day": "2025-03-03"}})


def test_values_cannot_be_templates() -> None:
    message = render(mail("{{ contact.name }}"), {"contact": {"name": "{{ contact.email }}{% include 'x' %}"}})
    assert message.html == "{{ contact.email }}{% include &#39;x&#39; %}"


def test_text_beside_html_is_the_text_part() -> None:
    template = parse_template("t", {"html": "---\nsubject: s\n---\n<p>a</p>", "txt": "Hello {{ contact.x }}"}, "t")
    assert render(template, {"contact": {"x": "<b>"}}).text == "Hello <b>"


def test_undefined_columns_have_their_places() -> None:
    template = mail("<p>\n  {{ contact.frist_name }}</p>")
    [problem] = undefined_columns(template, "contact", ["first_name", "email"])
    assert str(problem) == (
        "templates/t.html:5:6  E402 'contact.frist_name' is undefined  hint: did you mean 'first_name'?"
    )


def test_digest_follows_every_source() -> None:
    one = parse_template("t", {"html": "a", "txt": "b"}, "t")
    assert one.digest == parse_template("t", {"txt": "b", "html": "a"}, "t").digest
    assert one.digest != parse_template("t", {"html": "a", "txt": "c"}, "t").digest


def test_short_texts_are_checked_too() -> None:
    assert parse_text("Call {{ contact.name }}").render({"contact": {"name": "Kim"}}) == "Call Kim"
    with pytest.raises(DefinitionError, match="E402 'contct' is undefined"):
        parse_text("{{ contct.name }}", "w.yaml")


def test_unknown_names_are_refused_even_when_a_value_exists() -> None:
    with pytest.raises(DefinitionError, match="E402"):
        mail("{{ today }}")
    assert failure is not None
    assert "safe" not in HTML.filters
