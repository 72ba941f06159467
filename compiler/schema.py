"""JSON Schema of workflow files, generated from the models; with a catalog it also offers the project's own names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from compiler.catalog import Catalog
from compiler.workflow import Workflow

DIALECT = "https://json-schema.org/draft/2020-12/schema"

DESCRIPTIONS: dict[str, str] = {
    "version": "Version of the language: 1.",
    "workflow": "Name of the workflow, equal to the file's name.",
    "description": "What the workflow is for; shown in the studio and in dbt's lineage.",
    "owner": "Who answers for it: an e-mail address or a team.",
    "tags": "Words for --select tag:<word>.",
    "trigger": "Who becomes a candidate: exactly one of event, audience, from, schedule.",
    "entry": "Who may enter, how often.",
    "goals": "A met goal ends the enrollment with the word `goal`.",
    "exit_when": "Conditions over the contact that end the enrollment with the word `exit_when`.",
    "exit_on_leave": "Audience triggers: end the enrollment when the contact leaves the audience.",
    "policy": "Rules around the steps; project-wide defaults stand in penstock.yaml.",
    "redirect": "Removed step -> the step where contacts in flight go on when they migrate to this version.",
    "steps": "What happens, in this order.",
    "event": "Name of an event, or a list of names.",
    "where": "SQL boolean; `entry.<column>` are the columns and properties of the event or row.",
    "audience": "SQL boolean over the contact.",
    "from": "Where it starts, or what it reads: ref('model').",
    "key": "SQL expression; one enrollment per contact and key.",
    "contact": "SQL expression that gives the contact's id.",
    "at": "When: a time of day, a timestamp expression, or best_time.",
    "schedule": "Cron line, e.g. 0 9 * * MON.",
    "timezone": "`contact`, or the name of a time zone such as Europe/Berlin.",
    "reentry": "once: for life; after_exit: again after the last one ended; always: they overlap.",
    "min_gap": "Least time between two entries of the same key.",
    "backfill": "false, true, or how long before activation events still count.",
    "max_age": "An older event is refused: rejected stale_trigger.",
    "cap": "`<count> per <duration>`, or the frequency cap of messages.",
    "ramp": "Entries of all contacts together; later ones wait.",
    "name": "A name of a-z, 0-9 and _.",
    "when": "SQL boolean that meets the goal.",
    "within": "How long: 30s, 15m, 2h, 3d, 1w.",
    "value": "SQL expression for reports.",
    "priority": "Higher goes first inside a tick.",
    "quiet_hours": "No messages on the contact's wall clock in [from, to).",
    "require": "SQL boolean over the contact, read at the send; or a map per channel.",
    "holdout": "A share of contacts whose messages are not delivered.",
    "allowed_lateness": "How long a timeout waits for late events.",
    "grace": "How late an action may run before it re-anchors the clock.",
    "max_duration": "An older enrollment ends with `expired`.",
    "default_timezone": "Time zone of contacts that have none.",
    "id": "Stable name of the step; tests, conditions and edits refer to it.",
    "if": "SQL boolean: a branch, or on an action `only if`.",
    "then": "Steps when it is true, or when the event came.",
    "else": "Steps when it is not, or after the timeout.",
    "wait": "Delay: 30s, 15m, 2h; 3d and 1w are calendar days on the contact's wall clock.",
    "wait_until": "The next such local time, or a timestamp expression.",
    "window": "Pass only inside an opening on the contact's wall clock.",
    "wait_for": "SQL boolean over events; hold until it is met or `within` ends.",
    "since": "Events count from here: entry (default), step, or the id of an earlier step.",
    "switch": "Arms with `if` and `then`; the first true one is taken.",
    "split": "Weights in percent per arm.",
    "salt": "Word that makes the random choice reproducible.",
    "arms": "Steps per arm.",
    "choose": "The model picks an arm.",
    "by": "Model that picks.",
    "explore": "Share of random picks.",
    "email": "Template of the e-mail.",
    "sms": "Template of the text message.",
    "push": "Template of the push notification.",
    "channel": "Channels in the order of preference.",
    "template": "Template for all channels.",
    "subject": "Subject; wins over the template's.",
    "with": "Values of the template's declared variables, or of the event.",
    "group": "Subscription group.",
    "transactional": "true: ignores unsubscribes, quiet hours and caps.",
    "send": "When the message goes out.",
    "expires_after": "Skip when it would be later than this.",
    "to": "Name of the destination, or the end of a span.",
    "on_error": "continue, or exit: a final failure ends the enrollment.",
    "tag": "Tag to add.", "untag": "Tag to remove.",
    "set": "Field to SQL expression.",
    "score": "Score to points.",
    "task": "A task for a person.", "title": "Title of the task.", "body": "Text or JSON body.",
    "due": "When the task is due, from now.",
    "notify": "Whom to tell: a target, or destination.target.", "text": "What to tell.",
    "crm": "Fields to write to a CRM object.", "object": "Kind of CRM object.",
    "webhook": "Name of the webhook destination.",
    "campaign": "Membership to change.", "add": "Campaign to join.", "remove": "Campaign to leave.",
    "emit": "Event to write.", "enroll": "Workflow to enter.", "unenroll": "Workflow to leave.",
    "goto": "Id of the step to jump to.", "max": "At most so many.",
    "exit": "Reason the log shows.", "include": "File of steps.",
    "percent": "Percent of contacts.", "per": "Length of the rolling window.",
    "on_cap": "skip the message, or defer it.", "channels": "Channels it is about; absent means all.",
    "days": "Days of the week; absent means all.",
}  # fmt: skip
"""Key of the language -> one sentence, where the model's field has none of its own."""


def workflow_schema(catalog: Catalog | None = None) -> dict[str, Any]:
    """The JSON Schema of a workflow file.

    Args:
        catalog: offers the project's templates, destinations, events, models and workflows as values; templates and
            destinations that do not exist are then errors.
    """
    schema = Workflow.model_json_schema(by_alias=True)
    for model in (schema, *schema["$defs"].values()):
        for key, field in model.get("properties", {}).items():
            field.pop("title", None)
            if "description" not in field and key in DESCRIPTIONS:
                field["description"] = DESCRIPTIONS[key]
        model.pop("title", None)
    if catalog is not None:
        _offer(schema["$defs"], catalog)
    return {"$schema": DIALECT, "title": "Penstock workflow", **schema}


def _offer(definitions: dict[str, Any], catalog: Catalog) -> None:
    def suggest(model: str, key: str, names: Iterable[str]) -> None:
        words = sorted(names)
        if words and key in definitions.get(model, {}).get("properties", {}):
            definitions[model]["properties"][key]["examples"] = words

    def restrict(model: str, key: str, names: Iterable[str]) -> None:
        words = sorted(names)
        field = definitions.get(model, {}).get("properties", {}).get(key)
        if words and field is not None and not catalog.open_names:
            _restrict(field, words)

    destinations = catalog.destinations.values()
    restrict("EmailStep", "email", catalog.templates)
    for step, definition in definitions.items():
        if step.endswith("Step") and "to" in definition.get("properties", {}):
            restrict(step, "to", catalog.destinations)
    restrict("WebhookStep", "webhook", (d.name for d in destinations if "webhook" in d.roles))
    suggest("NotifyStep", "notify", _targets(catalog))
    suggest("EventTrigger", "event", catalog.events.properties)
    suggest("ModelTrigger", "from", (f"ref('{name}')" for name in catalog.relations))
    suggest("EnrollStep", "enroll", catalog.workflows)
    suggest("UnenrollStep", "unenroll", catalog.workflows)


def _restrict(field: dict[str, Any], words: list[str]) -> None:
    """Turns the text form of a field into an enumeration; null and map forms stay."""
    forms = field.get("anyOf", [field])
    for form in forms:
        if form.get("type") == "string":
            form["enum"] = words


def _targets(catalog: Catalog) -> Iterable[str]:
    for destination in catalog.destinations.values():
        if "notify" in destination.roles:
            for target in destination.targets or ():
                yield target
                yield f"{destination.name}.{target}"
