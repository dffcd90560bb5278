"""Models that read texts through a chat template, compared with sentence-transformers and transformers on torch."""

import copy
import functools
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import tokenizers
import torch
import transformers
from st_checkpoints import TOLERANCE
from transformers.utils.chat_template_utils import render_jinja_template

from mlx_hf_bridge import MLXAutoModel, MLXCrossEncoder, MLXSentenceTransformer
from mlx_hf_bridge.errors import BackendError, ConfigError, InputError, TokenRangeError
from mlx_hf_bridge.inference import chat_template, template_limits
from mlx_hf_bridge.inference.chat_template import render_chat

# The forms of Qwen3-Reranker's, of Qwen2's with further roles, and of one that reads lists of parts and the task.
RERANKER = """{%- set ns = namespace(instruct='Retrieve passages that answer the query') -%}
{%- for message in messages if message.role == 'system' -%}{%- set ns.instruct = message.content -%}{%- endfor -%}
<|im_start|>system
The answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ ns.instruct }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
CHATML = """{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
PARTS = """{%- for m in messages -%}
{{ m.role }}: {% for part in m.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{{ eos_token }}
{%- endfor -%}{{ ' Q' if task == 'query' }}"""
PAIRS = [("a cat?", "the cat is an animal"), ("no", ""), ("why " * 30, "because the " * 60), ("a", "wörld 你好")]
TEXTS = ["a cat", "", "the dogs " * 40]


def save_tokenizer(folder: Path, template: Any, **options: Any) -> int:
    """Save a byte-level tokenizer of Qwen's kind with a chat template, and return the size of its vocabulary."""
    merges = [("y", "e"), ("ye", "s"), ("n", "o"), ("Ġ", "t"), ("Ġt", "h")]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(left + right for left, right in merges)]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=160, **options
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "Qwen2Tokenizer"}))
    return len(tokenizer)


def save_checkpoint(folder: Path, kind: str, template: Any, head: str, tied: bool = True, **options: Any) -> Path:
    """Save a tiny Qwen with random weights and a chat template."""
    size = save_tokenizer(folder, template, **options)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        pad_token_id=size - 3,
        tie_word_embeddings=tied,
        num_labels=1,
        **({"head_dim": 8} if kind == "Qwen3" else {}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind + head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


RERANKERS: dict[str, tuple[Any, ...]] = {
    "qwen3 yes or no": ("Qwen3", RERANKER, "ForCausalLM"),
    "qwen3 untied": ("Qwen3", RERANKER, "ForCausalLM", False),
    "qwen2 yes or no": ("Qwen2", CHATML, "ForCausalLM"),
    "qwen3 one label": ("Qwen3", RERANKER, "ForSequenceClassification"),
    "qwen2 one label": ("Qwen2", PARTS, "ForSequenceClassification"),
}


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, MLXCrossEncoder]]:
    """Return a function that loads one of RERANKERS in sentence-transformers and here."""

    @functools.cache
    def load(name: str) -> tuple[Any, MLXCrossEncoder]:
        sides = {"padding_side": "left", "truncation_side": "left"} if name == "qwen2 yes or no" else {}
        folder = save_checkpoint(tmp_path_factory.mktemp("reranker"), *RERANKERS[name], **sides)
        return sentence_transformers.CrossEncoder(str(folder), device="cpu"), MLXCrossEncoder(folder)

    return load


SLOW = ("qwen2 yes or no", "qwen3 one label")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RERANKERS]
)
def test_rerankers_score_pairs_through_their_chat_template(rerankers: Any, name: str) -> None:
    torch_model, mlx_model = rerankers(name)
    options = {"activation_fn": torch.nn.Identity()}
    expected = torch_model.predict(PAIRS, **options)
    np.testing.assert_allclose(mlx_model.predict(PAIRS, **options), expected, **TOLERANCE)
    np.testing.assert_allclose(mlx_model.predict([PAIRS[0]], **options), expected[:1], **TOLERANCE)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": "Is it so?"},
        {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}, "text": {"logits_to_keep": 0}}},
        {"processing_kwargs": {"text": {"max_length": 110}}},
        {"processing_kwargs": {"chat_template": {"max_length": 110, "restore_suffix": False}}},
        {"processing_kwargs": {"chat_template": {"chat_template": RERANKER.replace("answer can", "answer must")}}},
    ],
    ids=("prompt", "generation", "truncated", "cut", "template"),
)
def test_arguments_of_the_template_have_their_effect(rerankers: Any, arguments: dict[str, Any]) -> None:
    torch_model, mlx_model = rerankers("qwen3 yes or no")
    options = {"activation_fn": torch.nn.Identity(), **arguments}
    np.testing.assert_allclose(
        mlx_model.predict(PAIRS[2:], **options), torch_model.predict(PAIRS[2:], **options), **TOLERANCE
    )


@pytest.mark.parametrize("name", ["qwen3 untied", "qwen2 one label"])
def test_a_saved_reranker_keeps_template_and_format(rerankers: Any, name: str, tmp_path: Path) -> None:
    torch_model, mlx_model = rerankers(name)
    mlx_model.save_pretrained(tmp_path)
    expected = mlx_model.predict(PAIRS[:2])
    again = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    assert again[0].modality_config == torch_model[0].modality_config == mlx_model[0].modality_config
    np.testing.assert_allclose(again.predict(PAIRS[:2]), expected, **TOLERANCE)
    for one in (MLXCrossEncoder(tmp_path), copy.deepcopy(mlx_model), pickle.loads(pickle.dumps(mlx_model))):
        np.testing.assert_allclose(one.predict(PAIRS[:2]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "template"), [("Qwen3", CHATML), ("Qwen2", PARTS)])
def test_embedders_read_texts_through_their_chat_template(kind: str, template: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, kind, template, "ForCausalLM")
    torch_model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    mlx_model = MLXSentenceTransformer(tmp_path)
    for method in ("encode", "encode_query"):
        for prompt in (None, "Find: "):
            expected = getattr(torch_model, method)(TEXTS, prompt=prompt)
            np.testing.assert_allclose(getattr(mlx_model, method)(TEXTS, prompt=prompt), expected, **TOLERANCE)
    assert mlx_model[1].pooling_mode == "lasttoken"


def test_a_quantized_reranker_scores_nearly_as_the_float_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Qwen2", CHATML, "ForCausalLM", False)
    options: dict[str, Any] = {"activation_fn": np.array}
    expected = MLXCrossEncoder(tmp_path, **options).predict(PAIRS)
    actual = MLXCrossEncoder(tmp_path, quantization_config={"bits": 8, "group_size": 32}, **options).predict(PAIRS)
    assert 0 < np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


def test_named_templates_are_chosen_as_in_transformers(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Qwen2", {"default": CHATML, "judge": RERANKER}, "ForSequenceClassification")
    torch_model, mlx_model = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu"), MLXCrossEncoder(tmp_path)
    # With several templates, sentence-transformers gives them lists of parts, which these do not take.
    assert torch_model[0].modality_config == mlx_model[0].modality_config
    with pytest.raises(InputError, match=r"cannot carry a pair .*can only concatenate"):
        mlx_model.predict(PAIRS)
    mlx_model.save_pretrained(tmp_path / "saved")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == {
        "default": CHATML,
        "judge": RERANKER,
    }


def test_a_template_without_the_roles_of_a_pair_is_refused_until_another_is_set(tmp_path: Path) -> None:
    users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    save_checkpoint(tmp_path, "Qwen2", users, "ForCausalLM")
    with pytest.raises(InputError, match="the query and document is not in the text"):
        MLXCrossEncoder(tmp_path).predict(PAIRS)
    given = {"processor_kwargs": {"chat_template": CHATML}}
    expected = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu", **given).predict(PAIRS)
    np.testing.assert_allclose(MLXCrossEncoder(tmp_path, **given).predict(PAIRS), expected, **TOLERANCE)
    later = MLXCrossEncoder(tmp_path)
    later.tokenizer.chat_template = CHATML
    np.testing.assert_allclose(later.predict(PAIRS), expected, **TOLERANCE)


@pytest.mark.parametrize(
    "template",
    [
        RERANKER,
        CHATML,
        "{% for m in messages %}{% generation %}{% set x = m.content %}{{ x }}{% endgeneration %}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if loop.index0 %}{% break %}"
        "{% endif %}{{ m | tojson(indent=2) }}{{ ns.n ~ '/' ~ loop.length }}{% endfor %}",
        "{% macro part(m, end='.') %}{{ m['content'].strip().split(' ')[-1] | upper }}{{ end }}{% endmacro %}"
        "{{ part(messages[0]) }}{{ part(messages[-1], end='!') }}{{ '%s-%02d' % (bos_token, 3) }}{{ 'x{}'.format(2) }}",
        "{{ messages | map(attribute='content') | join(', ') | replace('a', 'bb') | indent(2) }}{{ [1, 2] + [3] }}"
        "{{ dict(a=1) | tojson }}{{ (1, 'b') }}{{ {'k': messages[0].role} }}{{ tools is none }}{{ 2 ** 3 * 4 }}",
        "{% if tools is not defined or not tools %}{{- raise_exception('no tools') if false }}{% endif %}  \n  a\n",
    ],
)
def test_templates_render_as_in_transformers(template: str) -> None:
    messages = [{"role": "query", "content": " a cat? "}, {"role": "document", "content": "é\nan animal"}]
    [expected], _ = render_jinja_template([messages], chat_template=template, bos_token="<s>")
    assert render_chat(template, messages, {"bos_token": "<s>"}) == expected


HOSTILE = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ 9 ** 99999 ** 2 }}",
    "{{ 'a' | center(10 ** 9) }}",
    "{{ 'a'.ljust(10 ** 9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10 ** 9, 1) }}",
    "{{ '{:>{}}'.format(1, 10 ** 9) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ ('\n' * 50000) | indent(90000, true) }}",
    "{{ (['a' * 100000] * 10000) | join }}",
    "{{ ''.join(['a' * 100000] | list * 10000) }}",
    "{{ dict.fromkeys(range(99999), 'a' * 99999) | string }}",
    *(
        "{% set ns = namespace(s='aaaaaaaa', l=[1]) %}{% for i in range(99) %}"
        + step
        + "{% endfor %}{{ ns.s }}{{ ns.l }}"
        for step in (
            "{% set ns.s = ns.s ~ ns.s %}",
            "{% set ns.s = ns.s + ns.s %}",
            "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
            "{% set ns.s = ns.s.replace('a', ns.s) %}",
            "{% set ns.s = ns.s | replace('', ns.s) %}",
            "{% set ns.s = ns.s.join(ns.s) %}",
            "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
            "{% set ns.s = '{0}{0}'.format(ns.s) %}",
            "{% set ns.l = ns.l + ns.l %}",
            "{% set ns.l = [ns.l, ns.l] %}",
            "{% set ns.l = cycler(ns.l, ns.l).items %}",
        )
    ),
    "{{ ''.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{% include 'other' %}",
    "{{ namespace(__init__=1) }}",
    "{{ raise_exception('no') }}",
    "{{ nothing.at.all }}",
    "{% if %}",
    "{{" + "(" * 5000,
]


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_ends_in_an_error(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "_STEPS", 2000)
    monkeypatch.setattr(template_limits, "_CHARACTERS", 2**16)
    with pytest.raises(ConfigError, match=r"the chat template cannot be rendered \(\w+: .*Take the original file"):
        render_chat(template, [{"role": "user", "content": "a text"}])


def test_a_long_text_is_no_hostile_template() -> None:
    text = "the cat " * 200_000
    rendered = render_chat(CHATML, [{"role": "user", "content": text}])
    assert rendered == f"<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"


@pytest.mark.parametrize(("version", "said"), [(None, "needs jinja2"), ("3.1.5", "3.1.6 or newer")])
def test_a_missing_or_unsafe_jinja_is_named(version: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import jinja2

    chat_template._compile.cache_clear()
    if version is None:
        monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    else:
        monkeypatch.setattr(jinja2, "__version__", version)
    with pytest.raises(BackendError, match=said):
        render_chat("{{ messages }}", [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model.tokenizer, "chat_template", None), "its tokenizer has none"),
        (lambda model: setattr(model.tokenizer, "chat_template", {"a": "b"}), r"\['a'\], none of them a default"),
        (lambda model: setattr(model.tokenizer, "chat_template", "{{ nothing.at.all }}"), "'nothing' is undefined"),
    ],
)
def test_a_template_that_is_missing_or_broken_is_said(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Qwen2", CHATML, "Model")
    model = MLXSentenceTransformer(tmp_path)
    change(model)
    with pytest.raises(ConfigError, match=said):
        model.encode(TEXTS)
    with pytest.raises(InputError, match=re.escape("processing_kwargs has ['tokenize']")):
        model.encode(TEXTS, processing_kwargs={"chat_template": {"tokenize": False}})


def test_a_sliding_window_bounds_the_length_of_qwen2(tmp_path: Path) -> None:
    """Shorter texts see all of themselves, as in transformers."""
    save_checkpoint(tmp_path, "Qwen2", CHATML, "Model")
    path = tmp_path / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "layer_types"}
    path.write_text(json.dumps({**config, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}))
    ids = np.arange(10, 19)[None]
    expected = transformers.AutoModel.from_pretrained(tmp_path)(torch.tensor(ids[:, :8]))[0].detach().numpy()
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(np.array(mlx_model(input_ids=ids[:, :8])[0]), expected, **TOLERANCE)
    with pytest.raises(TokenRangeError, match="is computed here for 8 or fewer"):
        mlx_model(input_ids=ids)
