"""Forms of web pages that post here: their fields become an event, and the visitor is led to a listed page.

A form is open to everybody, so it takes its listed fields and nothing else, and never leads to an address that came
with it unless that one is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.collector import pages
from flows.collector.incoming import Intake, Json
from flows.collector.pace import Allowances
from flows.collector.service import Collector, Refusal, body_of
from flows.collector.tokens import Keyring

PER_SECOND = 2.0
"""Posts from one address."""
_LARGEST = 64_000
_MOST_FIELDS = 200
_REDIRECT = "redirect"


@dataclass(frozen=True)
class Form:
    """A form.

    Attributes:
        event: the name of its events; they have the property `form`.
        fields: those that are kept, as properties.
        email, phone: the fields that say whom it is about.
        pages: where it may lead to; the first one unless its field `redirect` names another.
        trap: a field that people do not see; who fills it is a machine, and nothing is kept.
    """

    event: str
    fields: tuple[str, ...]
    email: str | None
    phone: str | None
    pages: tuple[str, ...]
    trap: str | None


class Forms:
    """The endpoint of forms, by their names."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        self._forms = forms
        self._intake = Intake("server", Keyring([]))

    def routes(self, collector: Collector) -> list[Route]:
        """The routes of this part."""
        self._collector = collector
        self._addresses = Allowances(PER_SECOND, collector.monotonic)
        return [Route("/v1/forms/{name}", self.posted, methods=["POST"])]

    async def posted(self, request: Request) -> Response:
        """A form was sent."""
        name = request.path_params["name"]
        form = self._forms.get(name)
        if form is None:
            raise Refusal(404, "unknown_form", "there is no form of that name")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Refusal(415, "not_a_form", "the content type is application/x-www-form-urlencoded")
        if wait := self._addresses.take(request.client.host if request.client is not None else ""):
            raise Refusal(429, "too_many", "too many posts from this address", after=wait)
        body = await body_of(request, _LARGEST)
        given = _fields(body)
        event = _event(name, form, given)
        if form.trap is None or not given.get(form.trap):
            _, refused = self._intake.split([event], len(body), odd=b"%00" in body or b"\0" in body)
            if refused:
                raise Refusal(400, refused[0].reason, refused[0].message)
            await self._collector.keep("form", name, [event])
        wanted = given.get(_REDIRECT)
        if not form.pages:
            return pages.page("Thank you", "<p>We have got it.</p>")
        return RedirectResponse(wanted if wanted in form.pages else form.pages[0], 303, {"Cache-Control": "no-store"})


def _fields(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError:
        raise Refusal(400, "not_a_form", f"a form has at most {_MOST_FIELDS} fields in UTF-8") from None


def _event(name: str, form: Form, given: Mapping[str, str]) -> Json:
    event: Json = {"name": form.event, "properties": {
        "form": name, **{field: given[field] for field in form.fields if field in given},
    }}  # fmt: skip
    for key, field in (("email", form.email), ("phone", form.phone)):
        if field is not None and (value := given.get(field, "").strip()):
            event[key] = value
    return event
