"""The documentation page: the OpenAPI document as one HTML page that needs no script and loads nothing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from pipeline.ingest.problems import Kind

Json = Mapping[str, Any]


def render_page(document: Json) -> str:
    """The whole page."""
    style = files("pipeline.ingest").joinpath("docs_page.css").read_text("utf-8")
    info = document["info"]
    operations = [(path, method, operation) for path, methods in document["paths"].items() for method, operation in methods.items()]
    sections = "".join(_section(document, tag["name"], [entry for entry in operations if tag["name"] in entry[2]["tags"]]) for tag in document["tags"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(info['title'])}: HTTP interface</title><style>{style}</style></head><body>"
        f"<nav><h1>{_text(info['title'])}</h1>{_contents(document, operations)}</nav>"
        f'<main><header><p>{_prose(info["description"])}</p><p class="note">Version {_text(info["version"])} · <a href="/openapi.json">openapi.json</a></p></header>'
        f"{sections}{_problems()}{_schemas(document)}</main></body></html>"
    )


def _contents(document: Json, operations: list[tuple[str, str, Json]]) -> str:
    def links(tag: str) -> Iterator[str]:
        for path, method, operation in operations:
            if tag in operation["tags"]:
                yield f'<li><a href="#{operation["operationId"]}">{_method(method)}<code>{_text(path)}</code></a></li>'

    groups = "".join(f"<h2>{_text(tag['name'])}</h2><ul>{''.join(links(tag['name']))}</ul>" for tag in document["tags"])
    return groups + '<h2>More</h2><ul><li><a href="#problems">Problems</a></li><li><a href="#schemas">Schemas</a></li></ul>'


def _section(document: Json, title: str, operations: list[tuple[str, str, Json]]) -> str:
    return f"<section><h2>{_text(title)}</h2>{''.join(_operation(document, *entry) for entry in operations)}</section>"


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    keys = [" + ".join(f"{name} ({', '.join(scopes)})" if scopes else name for name, scopes in way.items()) for way in operation["security"]]
    auth = f'<p class="note">Needs {_text(" or ".join(keys))}</p>' if keys else ""
    return (
        f'<article id="{operation["operationId"]}"><h3>{_method(method)}<code>{_text(path)}</code></h3><p><strong>{_text(operation["summary"])}.</strong> '
        f"{_prose(operation.get('description', ''))}</p>{auth}{_parameters(operation)}{_body(operation)}{_answers(document, operation)}</article>"
    )


def _parameters(operation: Json) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(one['name'])}</code></td><td>{_text(one['in'])}</td><td>{_type(one.get('schema', {}))}</td><td>{_prose(one.get('description', ''))}</td></tr>"
        for one in operation.get("parameters", ())
    )
    return f"<h4>Parameters</h4><table>{rows}</table>" if rows else ""


def _body(operation: Json) -> str:
    body = operation.get("requestBody")
    if not body:
        return ""
    return f"<h4>Body</h4><p>{_prose(body.get('description', ''))}</p>" + "".join(_media(name, media) for name, media in body["content"].items())


def _answers(document: Json, operation: Json) -> str:
    return "<h4>Answers</h4>" + "".join(_answer(document, status, answer) for status, answer in operation["responses"].items())


def _answer(document: Json, status: str, answer: Json) -> str:
    resolved = _resolve(document, answer)
    media = "".join(_media(name, media) for name, media in resolved.get("content", {}).items())
    head = f'<span class="status s{status[0]}">{status}</span> {_prose(resolved["description"])}'
    return f"<details><summary>{head}</summary>{media}</details>" if media else f'<p class="answer">{head}</p>'


def _media(name: str, media: Json) -> str:
    example = media.get("example")
    shown = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
    code = f"<pre>{_text(shown)}</pre>" if example is not None else ""
    return f'<p class="note"><code>{_text(name)}</code> {_type(media.get("schema", {}))}</p>{code}'


def _problems() -> str:
    rows = "".join(f"<tr><td>{kind.status}</td><td><code>{kind.uri}</code></td><td>{_text(kind.title)}</td></tr>" for kind in Kind)
    return f'<section id="problems"><h2>Problems</h2><p>Every refusal has one of these types.</p><table>{rows}</table></section>'


def _schemas(document: Json) -> str:
    return (
        '<section id="schemas"><h2>Schemas</h2>' + "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items()) + "</section>"
    )


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{_text(field)}</code>{'<b title=required>*</b>' if field in required else ''}</td><td>{_type(value)}</td><td>{_prose(value.get('description', ''))}</td></tr>"
        for field, value in schema.get("properties", {}).items()
    )
    return f'<article id="schema-{_text(name)}"><h3>{_text(name)}</h3><p>{_prose(schema.get("description", ""))}</p><table>{rows}</table></article>'


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{_text(name)}">{_text(name)}</a>'
    for joined in ("oneOf", "anyOf", "allOf"):
        if joined in schema:
            return " or ".join(_type(one) for one in schema[joined])
    if schema.get("type") == "array":
        return "list of " + _type(schema.get("items", {}))
    kinds = schema.get("type", "")
    words = [" or ".join(kinds) if isinstance(kinds, list) else kinds, schema.get("format", "")]
    words += [" | ".join(f"`{value}`" for value in schema["enum"] if value is not None)] if "enum" in schema else []
    words += [f"up to {schema['maxLength']} characters"] if "maxLength" in schema else []
    words += [f"{schema['minimum']} to {schema['maximum']}"] if {"minimum", "maximum"} <= set(schema) else []
    words += [f"default {schema['default']}"] if "default" in schema else []
    return _prose(", ".join(filter(None, words)))


def _resolve(document: Json, value: Json) -> Json:
    if "$ref" not in value:
        return value
    found: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Json = found
    return resolved


def _method(method: str) -> str:
    return f'<span class="method {method}">{method.upper()}</span>'


def _text(text: object) -> str:
    return html.escape(str(text))


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
