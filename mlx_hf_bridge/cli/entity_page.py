"""A self-contained HTML page of texts with their entities highlighted."""

from collections.abc import Sequence
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Entities found by {{ model }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.8 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
p { overflow-wrap: anywhere; }
mark { padding: .1em .35em; border-radius: .3em; color: inherit; white-space: pre-wrap; }
mark small { font-size: .65em; font-weight: 700; margin-left: .4em; opacity: .75; }
.legend mark { margin-right: .5em; }
{% for label in labels %}
.l{{ loop.index0 }} { background: hsl({{ (loop.index0 * 137 + 210) % 360 }} 75% 65% / .45); }
{% endfor %}
</style></head><body>
<h1>Entities</h1>
<p>Found by {{ model }}.</p>
<p class="legend">{% for label in labels %}<mark class="l{{ loop.index0 }}">{{ label }}</mark>{% endfor %}</p>
{% for parts in texts %}
<p>{% for text, label, score in parts %}{% if label is none %}{{ text }}{% else -%}
<mark class="l{{ labels.index(label) }}" title="{{ '%.3f' % score }}">{{ text }}<small>{{ label }}</small></mark>
{%- endif %}{% endfor %}</p>
{% endfor %}
</body></html>
"""


def entity_page(model: str, found: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """Return the page.

    Args:
        model: The model's name.
        found: Each text with its entities: "label", "start", "end" and "score".

    Returns:
        HTML without outside resources.
    """
    import jinja2

    labels = sorted({one["label"] for _, entities in found for one in entities})
    texts = [_parts(text, entities) for text, entities in found]
    return jinja2.Environment(autoescape=True).from_string(_PAGE).render(model=model, labels=labels, texts=texts)


def _parts(text: str, entities: list[dict[str, Any]]) -> list[tuple[str, str | None, float]]:
    """Return the parts of a text in order, those of an entity with its label and score; the rest with None."""
    parts: list[tuple[str, str | None, float]] = []
    position = 0
    for one in sorted(entities, key=lambda entity: entity["start"]):
        if one["start"] < position:  # within another entity
            continue
        parts.append((text[position : one["start"]], None, 0.0))
        parts.append((text[one["start"] : one["end"]], one["label"], one["score"]))
        position = one["end"]
    return [*parts, (text[position:], None, 0.0)]
