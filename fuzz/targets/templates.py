"""Targets: chat templates, as a repo's own file or inside tokenizer_config.json, compiled and rendered."""

import json
import os
from pathlib import Path
from random import Random
from typing import Any

from fuzz.mutators import JsonMutator
from fuzz.targets.base import Run, Target, as_json
from mlx_hf_bridge.inference.chat_template import render_chat, template_variables
from mlx_hf_bridge.inference.template_files import (
    CHAT_TEMPLATE,
    TEMPLATE_FILE,
    parse_templates,
    read_templates,
    write_templates,
)

# What no template may print: a variable of the process.
_SECRET = "b7b1a1d5-secret"
# Characters of all values of a rendering, of which its text is one.
_MOST = 2**23
_MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "the cat sat"}]},
    {"role": "assistant", "content": "a dog\n"},
]
_TEMPLATES = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{%- set ns = namespace(found=false, n=0) -%}{%- for m in messages if m.role != 'system' -%}"
    "{%- set ns.n = ns.n + 1 -%}{{ loop.index ~ ':' ~ "
    "(m.content if m.content is string else m.content | map(attribute='text') | join(' ')) }}"
    "{%- if loop.last %}{% break %}{% endif -%}{%- endfor -%}{{ ns.n }}",
    "{% macro show(x, n=2) %}{{ (x | tojson(indent=n)).center(40) }}{% endmacro %}{{ show(messages[0]) }}"
    "{{ show(tools or documents) }}{% generation %}x{% endgeneration %}",
    "{{ '%s and %5d' | format('a', 3) }}{{ '{0:>10}'.format('b') }}{{ strftime_now('%Y') }}{{ range(5) | list }}"
    "{{ dict(a=1).items() | list }}{{ raise_exception('no') }}",
    "{% set x = ['a'] * 3 %}{% set y = x + x %}{{ y | batch(2, '-') | list }}{{ (x, y) | string | length }}"
    "{{ cycler('a', 'b').next() }}{{ joiner(',')() }}{% filter upper %}t{% endfilter %}"
    "{% call(u) caller2() %}{% endcall %}",
)
_FRAGMENTS = (
    *("{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "#}", "(", ")", "[", "]", "|", "~", "*", "**", "%", ".", ",", "'"),
    *("messages", "loop", "ns", "self", "caller", "varargs", "x", "10 ** 9", "99999", "2 ** 30", "-1", "1e308"),
    *(".__class__", ".__mro__", "['__globals__']", "| attr('__init__')", ".format_map", "| map('attr', 'x')"),
    *("{{ x * 99999 }}", "{{ '%99999d' % 1 }}", "{{ ('a' * 9999) | indent(9999) }}", "{{ x ~ x ~ x }}", "x | pprint"),
    *("{% for a in range(99999) %}{% for b in range(99999) %}", "{% endfor %}{% endfor %}", "{% set x = [x, x] %}"),
    *(
        "{% set x = x + x %}",
        "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "| urlize",
        "| xmlattr",
    ),
    *(
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "| wordwrap(1)",
    ),
    *(
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{% block a %}{% endblock %}",
        "| groupby('x')",
    ),
    *("{{ namespace(__class__=1) }}", "{{ dict.fromkeys(range(99999)) }}", "| unique | list", "| slice(99999) | list"),
    *("{{ 'x'.zfill(99999) }}", "{{ 'a'.replace('', 'b' * 9999) }}", "{{ 'a'.translate({97: 'b' * 9999}) }}"),
    *("{{ '{:99999}'.format(1) }}", "{{ '{0.__class__}'.format(x) }}", "{{ x.append(x) }}", "| tojson", "| random"),
)


def _mutate(data: bytes, random: Random) -> bytes | None:
    """Insert, replace or repeat a fragment, or join two templates."""
    if random.random() < 0.1:
        return None
    text = data.decode("utf-8", "replace")
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(text))
        end = min(len(text), start + random.choice((0, 0, 1, 5, 40)))
        new = random.choice((*_FRAGMENTS, text[start : start + 60], random.choice(_TEMPLATES)[: random.randint(1, 80)]))
        text = text[:start] + new * random.choice((1, 1, 1, 2, 50)) + text[end:]
    return text[: 2**14].encode("utf-8", "replace")


def _render(folder: Path) -> Run:
    os.environ["MLX_HF_BRIDGE_FUZZ"] = _SECRET

    def run(data: bytes) -> None:
        (folder / TEMPLATE_FILE).write_bytes(data)
        template = read_templates(folder)[CHAT_TEMPLATE]
        template_variables(template)
        text = render_chat(template, _MESSAGES, {"eos_token": "</s>", "x": "ab", "ns": {"a": [1, 2]}})
        assert isinstance(text, str) and len(text) <= _MOST, len(text)
        assert _SECRET not in text, "the environment is printed"

    return run


def _settings(folder: Path) -> Run:
    def run(data: bytes) -> None:
        try:
            given = json.loads(data)
        except (ValueError, RecursionError):
            return
        templates = parse_templates(given)
        write_templates(templates, folder)
        assert all(path.resolve().is_relative_to(folder.resolve()) for path in folder.rglob("*"))
        read_templates(folder)

    return run


_SEEDS = [template.encode() for template in _TEMPLATES]
_FORMS = as_json(
    _TEMPLATES[0],
    {"default": _TEMPLATES[0], "tool_use": "x"},
    [{"name": "default", "template": _TEMPLATES[0]}, {"name": "rag", "template": ""}],
)

TARGETS = (
    Target("chat-template", "chat templates, rendered", _render, _SEEDS, _mutate),
    Target("chat-template-forms", "the forms of chat_template", _settings, _FORMS, JsonMutator(_FORMS, ["a/b", ".."])),
)
