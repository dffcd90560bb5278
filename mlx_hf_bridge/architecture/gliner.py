"""GLiNER (Zaratiana et al., arXiv 2311.08526): an encoder of any family with a head that scores labels for words.

Reference: gliner 0.2.29 (config.py, modeling/base.py). A checkpoint's config.json, as it is kept here, is the encoder's
with gliner_config.json under `GLINER_KEY`; an encoder of labels has a conversion of its own, marked by `LABELS_KEY`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Family, Head
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.layers.gliner import CrossFuser, GLiNERHead
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.lstm import BidirectionalLSTM
from mlx_hf_bridge.layers.spans import SUBTOKEN_POOLING, Scorer, SpanMarker, projection

GLINER_FILE = "gliner_config.json"
GLINER_KEY = "gliner_config"
LABELS_KEY = "gliner_labels_encoder"
ZERO_SHOT_NER = "zero-shot-ner"
TOKEN_LEVEL = "token_level"
# Tokens that gliner adds to a backbone's tokenizer; the first has no use any more.
FIRST_ADDED_TOKEN = "[FLERT]"

_TEXT, _LABELS = "token_rep_layer.bert_layer", "token_rep_layer.labels_encoder"
_MARKERS = ("marker", "markerV0", "markerV1", "markerV2")
_STEPS = ("l2l", "t2t", "l2t", "t2l")
# Each takes memory before any weight is read; real models have one or two.
_MOST_LAYERS = 100
_MOST = 2**31 - 1
_UNCOMPUTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "labels_decoder": (bool, "it generates labels with a decoder"),
    "relations_layer": (lambda value: value is not None, "it extracts relations"),
    "span_encoder_config": (bool, "it has a further encoder before its spans"),
    "fuse_layers": (bool, "it weighs all layers of its encoder by a mean over the batch's padding"),
    "represent_spans": (bool, "it scores the spans of its words a second time"),
    "precomputed_prompts_mode": (bool, "its labels are fixed and stored as embeddings"),
    "model_type": (lambda value: value == "gliner_streaming_span", "it reads a stream of words with a causal decoder"),
}


@dataclass(frozen=True)
class GLiNERConfig:
    """The values of gliner_config.json that a model is built from, under gliner's names and with its defaults.

    Attributes:
        hidden_size: Width D of the head.
        max_width: Most words of a span.
        max_len: Most words of a text.
        span_mode: "markerV0" and its variants score spans, "token_level" scores words.
        subtoken_pooling: How the tokens of a word become one vector: "first", "last", "mean" or "max".
        num_rnn_layers: Layers of the LSTM over the words; 0 for none.
        embed_ent_token: Whether a label's vector is that of the `ent_token` before it; else of the token after that.
        class_token_index: Id of `ent_token`; -1 if the tokens are to be added to the tokenizer.
        vocab_size: Rows of the token table; -1 as for `class_token_index`.
        ent_token: The token before each label.
        sep_token: The token between labels and text.
        words_splitter_type: How texts are split into words; only "whitespace" is implemented.
        post_fusion_schema: Steps of attention between labels and words ("l2l-l2t"), "" for none; only models with an
            encoder of labels compute them.
        num_post_fusion_layers: How many times these steps are repeated.
        model_name: The backbone, whose config and tokenizer are used where the repo has none.
        labels_encoder: The backbone of the labels' own encoder; None for a model that reads labels before the text.
    """

    hidden_size: int = 512
    max_width: int = 12
    max_len: int = 384
    span_mode: str = "markerV0"
    subtoken_pooling: str = "first"
    num_rnn_layers: int = 1
    embed_ent_token: bool = True
    class_token_index: int = -1
    vocab_size: int = -1
    ent_token: str = "<<ENT>>"
    sep_token: str = "<<SEP>>"
    words_splitter_type: str = "whitespace"
    post_fusion_schema: str = ""
    num_post_fusion_layers: int = 1
    model_name: str = "microsoft/deberta-v3-small"
    labels_encoder: str | None = None

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Return the config of a parsed gliner_config.json.

        Args:
            raw: The content of the file.

        Returns:
            An instance of this class.

        Raises:
            ConfigError: If a value has a wrong type, is too large, or is not known.
            UnsupportedModelError: If the model is of a kind that is not computed here.
        """
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{GLINER_FILE} is not a JSON object. Take the original file.")
        for key, (is_uncomputed, reason) in _UNCOMPUTED.items():
            if key in raw and is_uncomputed(raw[key]):
                raise UnsupportedModelError(
                    f"{GLINER_FILE} has {key}={raw[key]!r:.80}: {reason}, which is not computed here. Use the gliner "
                    "package on torch for this model."
                )
        values = {spec.name: raw[spec.name] for spec in fields(cls) if raw.get(spec.name) is not None}
        # Before num_rnn_layers there was has_rnn; gliner itself would make an LSTM of random weights here.
        if raw.get("has_rnn") is False:
            values.setdefault("num_rnn_layers", 0)
        _check_values(values)
        return cls(**values)

    def __post_init__(self) -> None:
        known = {
            "span_mode": (*_MARKERS, TOKEN_LEVEL),
            "subtoken_pooling": SUBTOKEN_POOLING,
            "words_splitter_type": ("whitespace",),
        }
        for key, names in known.items():
            if (value := getattr(self, key)) not in names:
                raise UnsupportedModelError(
                    f"{GLINER_FILE} has {key}={value!r:.80}, which is not computed here; {', '.join(names)} "
                    f"{'is' if len(names) == 1 else 'are'}. Use the gliner package on torch for this model."
                )
        if not set(self.fusion_steps) <= set(_STEPS) or len(self.fusion_steps) > _MOST_LAYERS:
            raise ConfigError(
                f"{GLINER_FILE} has post_fusion_schema={self.post_fusion_schema!r:.80}; expected at most "
                f"{_MOST_LAYERS} of the steps {', '.join(_STEPS)}, joined by '-'. Take the original file."
            )
        if self.num_rnn_layers and not self.is_bi_encoder and self.hidden_size % 2:
            raise ConfigError(
                f"{GLINER_FILE} has hidden_size={self.hidden_size}, expected an even number for the two directions of "
                "its LSTM. Take the original file."
            )

    @property
    def is_bi_encoder(self) -> bool:
        """Whether labels have an encoder of their own."""
        return self.labels_encoder is not None

    @property
    def is_token_level(self) -> bool:
        """Whether words are scored, and not spans."""
        return self.span_mode == TOKEN_LEVEL

    @property
    def adds_tokens(self) -> bool:
        """Whether gliner adds its tokens to the tokenizer, and rows for them to the token table."""
        return not self.is_bi_encoder and -1 in (self.class_token_index, self.vocab_size)

    @property
    def fusion_steps(self) -> list[str]:
        """The steps of attention between labels and words; [] for a model that computes none."""
        return self.post_fusion_schema.split("-") if self.is_bi_encoder and self.post_fusion_schema else []


def _check_values(values: Mapping[str, Any]) -> None:
    """Check types and bounds of the values that the file has."""
    for spec in fields(GLiNERConfig):
        if spec.name not in values:
            continue
        value = values[spec.name]
        if spec.type is int:
            least = -1 if spec.default == -1 else 0 if spec.name == "num_rnn_layers" else 1
            most = _MOST_LAYERS if spec.name.endswith("_layers") else _MOST
            if type(value) is not int or not least <= value <= most:
                expected = f"an integer from {least} to {most}"
                raise ConfigError(
                    f"{GLINER_FILE} has {spec.name}={value!r:.80}, expected {expected}. Take the original."
                )
        elif not isinstance(value, bool if spec.type is bool else str):
            kind = "true or false" if spec.type is bool else "a text"
            raise ConfigError(f"{GLINER_FILE} has {spec.name}={value!r:.80}, expected {kind}. Take the original file.")


def gliner_family(base: Family, raw: Mapping[str, Any], labels_size: int = 0) -> Family:
    """Return the family of a GLiNER model, or of its encoder of labels: the encoder's own with other names and a head.

    Args:
        base: The family of the encoder.
        raw: The content of config.json, with `GLINER_KEY` or `LABELS_KEY`.
        labels_size: Hidden size of the encoder of labels; 0 without one.

    Returns:
        The family.

    Raises:
        ConfigError: If a value of either config is not valid.
        UnsupportedModelError: If the model is of a kind that is not computed here.
    """
    heads = ("cross_fuser", "prompt_rep_layer", "rnn", "scorer", "span_rep_layer")
    if raw.get(LABELS_KEY):
        ignored = (_TEXT, "token_rep_layer.projection", "token_rep_layer.labels_projection", *heads)
        return dataclasses.replace(
            base,
            prefix=f"{_LABELS}.model",
            alternate_prefixes=(),
            heads={},
            other_heads=(),
            hf_prefix="GLiNERLabels",
            ignored_prefixes=(*base.ignored_prefixes, *ignored),
        )
    gliner, encoder = GLiNERConfig.from_json(raw[GLINER_KEY]), base.config.from_json(raw)
    if gliner.fusion_steps and gliner.hidden_size % encoder.num_attention_heads:
        raise ConfigError(
            f"{GLINER_FILE} has hidden_size={gliner.hidden_size}, expected a multiple of the encoder's "
            f"{encoder.num_attention_heads} attention heads, which its post_fusion_schema uses too. Take the original."
        )
    names = _head_names(gliner, encoder, labels_size)
    used = {name.partition(".")[0] for name in names}
    unused = tuple(name for name in _UNUSED_LAYERS if gliner.span_mode == "markerV1")
    return dataclasses.replace(
        base,
        prefix=f"{_TEXT}.model",
        alternate_prefixes=(),
        heads={ZERO_SHOT_NER: Head(lambda config: _build_head(gliner, config, labels_size), names)},
        # Layers that gliner builds and trains, and does not compute with.
        other_heads=tuple(name for name in ("cross_fuser", "rnn") if name not in used),
        unused_modules=lambda config: (*base.unused_modules(config), *unused),
        hf_prefix="GLiNER",
        hf_head_suffixes={ZERO_SHOT_NER: ""},
        ignored_prefixes=(*base.ignored_prefixes, _LABELS),
        resizes_vocabulary=gliner.adds_tokens,
    )


_SPANS = "span_rep_layer.span_rep_layer"
_UNUSED_LAYERS = (f"{_SPANS}.project_first.0", f"{_SPANS}.project_first.3")


def _projection_names(hf: str, path: str) -> dict[str, str]:
    """Return the names of a torch Sequential of a linear layer, ReLU, dropout and another linear layer."""
    return {f"{hf}.0": f"{path}.first", f"{hf}.3": f"{path}.second"}


def _head_names(gliner: GLiNERConfig, encoder: EncoderConfig, labels_size: int) -> dict[str, str]:
    names = {}
    if gliner.hidden_size != encoder.hidden_size:
        names["token_rep_layer.projection"] = "projection"
    if gliner.num_rnn_layers and not gliner.is_bi_encoder:
        names["rnn.lstm"] = "rnn"
    if gliner.is_bi_encoder and gliner.hidden_size != labels_size:
        names["token_rep_layer.labels_projection"] = "labels_projection"
    for layer in range(gliner.num_post_fusion_layers):
        for index, step in enumerate(gliner.fusion_steps):
            names |= _fusion_names(layer, index, is_self=step[0] == step[-1])
    if gliner.is_token_level:
        names |= {"scorer.proj_token": "scorer.token", "scorer.proj_label": "scorer.label"}
        return names | _projection_names("scorer.out_mlp", "scorer.out")
    names |= _projection_names(f"{_SPANS}.project_start", "spans.start")
    names |= _projection_names(f"{_SPANS}.project_end", "spans.end")
    if gliner.span_mode == "markerV2":
        names |= _projection_names(f"{_SPANS}.project_context", "spans.context")
    out = f"{_SPANS}.out_project"
    names |= {out: "spans.out"} if gliner.span_mode == "marker" else _projection_names(out, "spans.out")
    return names | _projection_names("prompt_rep_layer", "prompt")


def _fusion_names(layer: int, index: int, is_self: bool) -> dict[str, str]:
    hf, path = f"cross_fuser.layers.{layer}.{index}", f"fuser.layer{layer}_{index}"
    attention = f"{hf}.self_attn" if is_self else f"{hf}.cross_attn"
    names = {f"{attention}.{part}_layer": f"{path}.{part}" for part in ("query", "key", "value")}
    names |= {f"{hf}.{norm}": f"{path}.{norm}" for norm in ("pre_norm", "post_norm")}
    names[f"{hf}.v_proj"] = f"{path}.value_input"
    return names | ({f"{hf}.q_proj": f"{path}.query_input", f"{hf}.k_proj": f"{path}.key_input"} if is_self else {})


def _build_head(gliner: GLiNERConfig, encoder: EncoderConfig, labels_size: int) -> GLiNERHead:
    size, steps = gliner.hidden_size, gliner.fusion_steps
    has_rnn = gliner.num_rnn_layers and not gliner.is_bi_encoder
    projects_labels = gliner.is_bi_encoder and size != labels_size
    return GLiNERHead(
        gliner.subtoken_pooling,
        scorer=Scorer(size) if gliner.is_token_level else None,
        spans=None if gliner.is_token_level else SpanMarker(size, gliner.max_width, gliner.span_mode),
        prompt=None if gliner.is_token_level else projection(size),
        projection=None if size == encoder.hidden_size else Linear(encoder.hidden_size, size),
        labels_projection=Linear(labels_size, size) if projects_labels else None,
        rnn=BidirectionalLSTM(size, size // 2, gliner.num_rnn_layers) if has_rnn else None,
        fuser=CrossFuser(size, encoder.num_attention_heads, gliner.num_post_fusion_layers, steps) if steps else None,
    )
