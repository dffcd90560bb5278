"""Texts read as conversations: the roles of a chat template, and what truncation must not cut off it.

Reference: sentence_transformers/base/modality.py (InputFormatter) and base/modules/transformer.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.inference.chat_template import Message, render_chat, template_variables
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.sentence_transformers.modules.processing import TextOptions

FLAT, STRUCTURED, AUTO = "flat", "structured", "auto"
# Model types whose templates read texts, and what stands in templates that read lists of parts.
_FLAT_TYPES = ("apertus", "deepseek_v3", "gpt_oss", "seed_oss")
_SIGNS_OF_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
# Pairs that differ in one text each: a template that renders two of them alike leaves that text out.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
_ROLES = ("query", "document")
# Two fillers that are tokenized differently: what both conversations end with belongs to the template.
_FILLERS = ("0", "1 2 3 4")
_MOST_SUFFIXES = 256

Template = str | Mapping[str, str] | None


class ChatReader:
    """Reads texts and pairs of texts through the chat template of a tokenizer.

    A text becomes a message of the role "user", a pair one of the role "query" and one of the role "document", and a
    prompt a message of the role "system" in front.

    Args:
        message_format: "flat" for messages whose content is a text, "structured" for lists of parts, or "auto" for
            what the template reads.
        template: The chat template, or several by name; read for "auto".
        model_type: `model_type` of config.json; read for "auto".
    """

    def __init__(self, message_format: str, template: Template, model_type: str) -> None:
        self.message_format = _format(template, model_type) if message_format == AUTO else message_format
        self._suffixes: dict[str, np.ndarray] = {}
        # What the last checked template was rendered with, and what is wrong with it.
        self._checked: tuple[str, str | None] = ("", None)

    def tokens(
        self, tokenizer: Tokenizer, texts: Sequence[Text], prompt: str, task: str | None, options: TextOptions
    ) -> list[Tokens]:
        """Render texts and tokenize them; the template's own end stays where a text is truncated.

        Args:
            tokenizer: The tokenizer, with the template.
            texts: Texts, or pairs of texts.
            prompt: The content of the system message; "" for none.
            task: The task of the call, for templates that read it.
            options: How to tokenize, and the variables of the template.

        Returns:
            The tokens of each text.

        Raises:
            ConfigError: If there is no template, or it cannot be rendered.
            InputError: If the template leaves out a text of a pair.
        """
        given = dict(options.chat)
        restore, named = given.pop("restore_suffix", True), given.pop("chat_template", None)
        template = choose_template(tokenizer.chat_template, named, given.get("tools"))
        variables = {**tokenizer.special_tokens_map, **self._task(tokenizer.chat_template, task), **given}
        if any(not isinstance(text, str) for text in texts):
            self._check_pairs(template, variables)
        conversations = [self._messages(text, prompt) for text in texts]
        rendered = [render_chat(template, one, variables) for one in conversations]
        found = tokenizer.encode(rendered, options.max_length, options.strategy, add_special_tokens=False)
        if not restore or options.max_length is None:
            return found
        return [
            self._restored(one, conversation, template, variables, tokenizer) if len(one) >= options.max_length else one
            for one, conversation in zip(found, conversations, strict=True)
        ]

    def _messages(self, text: Text, prompt: str) -> list[Message]:
        named = [("user", text)] if isinstance(text, str) else list(zip(_ROLES, text, strict=True))
        if prompt:
            named = [("system", prompt), *named]
        return [{"role": role, "content": self._content(content)} for role, content in named]

    def _content(self, text: Any) -> Any:
        return text if self.message_format == FLAT else [{"type": "text", "text": text}]

    def _task(self, templates: Template, task: str | None) -> dict[str, str]:
        sources = templates.values() if isinstance(templates, Mapping) else [templates or ""]
        return {"task": task} if task is not None and any("task" in template_variables(x) for x in sources) else {}

    def _check_pairs(self, template: str, variables: Mapping[str, Any]) -> None:
        """Raise InputError if a template that knows other roles leaves out a text of every pair."""
        key = repr((template, sorted(variables.items())))
        if self._checked[0] != key:
            self._checked = key, self._failure(template, variables)
        if failure := self._checked[1]:
            raise InputError(
                f"the chat template cannot carry a pair of a query and a document ({failure}), which are messages of "
                "these roles. Set a template that renders both: processor_kwargs={'chat_template': ...} when loading, "
                "or model.tokenizer.chat_template."
            )

    def _failure(self, template: str, variables: Mapping[str, Any]) -> str | None:
        try:
            base, *varied = [render_chat(template, self._messages(pair, ""), variables) for pair in _PROBES]
        except ConfigError as error:
            return str(error)
        dropped = [role for role, one in zip(_ROLES, varied, strict=True) if one == base]
        return f"the {' and '.join(dropped)} is not in the text that it renders" if dropped else None

    def _restored(
        self,
        tokens: Tokens,
        conversation: Sequence[Message],
        template: str,
        variables: Mapping[str, Any],
        tokenizer: Tokenizer,
    ) -> Tokens:
        """Return tokens that end as the template does, as models that read the last token need it."""
        suffix = self._suffix(conversation, template, variables, tokenizer)
        keep = min(len(suffix), len(tokens))
        if not keep:
            return tokens
        return replace(tokens, ids=np.concatenate([tokens.ids[: len(tokens) - keep], suffix[len(suffix) - keep :]]))

    def _suffix(
        self, conversation: Sequence[Message], template: str, variables: Mapping[str, Any], tokenizer: Tokenizer
    ) -> np.ndarray:
        skeletons = [
            [one if one["role"] == "system" else {**one, "content": self._content(filler)} for one in conversation]
            for filler in _FILLERS
        ]
        key = repr((template, sorted(variables.items()), skeletons[0]))
        if key not in self._suffixes:
            try:
                rendered = [render_chat(template, one, variables) for one in skeletons]
                first, second = (one.ids for one in tokenizer.encode(rendered, add_special_tokens=False))
                self._suffixes[key] = _common_suffix(first, second)
            except ConfigError:
                # A template that takes no such contents: nothing is known of its end.
                self._suffixes[key] = np.zeros(0, np.int32)
            if len(self._suffixes) > _MOST_SUFFIXES:
                self._suffixes.pop(next(iter(self._suffixes)))
        return self._suffixes[key]


def choose_template(templates: Template, named: str | None = None, tools: Any = None) -> str:
    """Return the chat template of a call, as transformers' `get_chat_template` does.

    Args:
        templates: The tokenizer's template, or several by name.
        named: A template, or the name of one of several. Default: None.
        tools: The tools of the call, for which there may be a template of its own. Default: None.

    Returns:
        The Jinja source.

    Raises:
        ConfigError: If there is none, or several without a default one.
    """
    if isinstance(templates, Mapping):
        if named is None:
            named = "tool_use" if tools is not None and "tool_use" in templates else "default"
            if named not in templates:
                raise ConfigError(
                    f"the tokenizer has the chat templates {sorted(templates)}, none of them a default one. Name one: "
                    "processing_kwargs={'chat_template': {'chat_template': name}}."
                )
        return templates.get(named, named)
    found = templates if named is None else named
    if found is None:
        raise ConfigError(
            "the model reads texts through a chat template, and its tokenizer has none. Take chat_template.jinja of "
            "the original checkpoint, or pass processor_kwargs={'chat_template': ...}."
        )
    return found


def _format(template: Template, model_type: str) -> str:
    if model_type in _FLAT_TYPES:
        return FLAT
    if not isinstance(template, str) or not template:
        return STRUCTURED
    return STRUCTURED if any(sign in template for sign in _SIGNS_OF_PARTS) else FLAT


def _common_suffix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    shorter = min(len(first), len(second))
    count = 0
    while count < shorter and first[-1 - count] == second[-1 - count]:
        count += 1
    # Renderings that never differ hold no content.
    return first[len(first) - count :] if 0 < count < shorter else first[:0]
