"""MLXGLiNER: named entities with labels that are given with each call, as the gliner package finds them.

Reference: gliner/model.py of gliner 0.2.29.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from mlx_hf_bridge.architecture.gliner import GLiNERConfig
from mlx_hf_bridge.checkpoints.gliner import LABELS_FOLDER
from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, RepositoryError
from mlx_hf_bridge.gliner.decoding import Decoding, decode
from mlx_hf_bridge.gliner.entities import Entity, entity_of
from mlx_hf_bridge.gliner.labels import LabelSet, read_labels
from mlx_hf_bridge.gliner.loading import LoadedGLiNER, load_gliner
from mlx_hf_bridge.gliner.scoring import embed_labels, score
from mlx_hf_bridge.gliner.words import Words, tokenize
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.pretrained.saving import save_folder
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.runtime.boundary import PublicAPI

logger = logging.getLogger(__name__)

# Texts that are computed before their entities are read from the scores, which take much more memory than the texts.
_TEXTS_AT_ONCE = 256
# Arguments of gliner's methods that make no difference here, or none unless they are set.
_WITHOUT_EFFECT = (
    "map_location",
    "strict",
    "low_cpu_mem_usage",
    "proxies",
    "resume_download",
    "load_tokenizer",
    "trust_remote_code",
)
_NEUTRAL = {
    "resize_token_embeddings": (True,),
    "compile_torch_model": (False,),
    "load_onnx_model": (False,),
    "onnx_model_file": (None, "model.onnx"),
    "runtime": (None, "torch"),
    "quantize": (None, False),
    "_attn_implementation": (None,),
    "post_fusion_schema": (None,),
}


class MLXGLiNER(PublicAPI):
    """gliner.GLiNER on MLX: entities of any labels in texts, without training.

    Args:
        loaded: What `from_pretrained` has loaded; users call that.
        name: The name that it was loaded by.

    Example:
        ```python
        from mlx_hf_bridge import MLXGLiNER

        model = MLXGLiNER.from_pretrained("urchade/gliner_small-v2.1", quantization_config="q8")
        model.predict_entities("Ada Lovelace lived in London.", ["person", "city"])
        # [{"start": 0, "end": 12, "text": "Ada Lovelace", "label": "person", "score": 0.98}, ...]
        ```
    """

    def __init__(self, loaded: LoadedGLiNER, name: str) -> None:
        if not isinstance(loaded, LoadedGLiNER):
            raise RepositoryError(
                "MLXGLiNER is designed to be instantiated using `MLXGLiNER.from_pretrained(model_id)`."
            )
        self.loaded = loaded
        self.name_or_path = name
        self._has_warned = False

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        *,
        quantization_config: QuantizationLike = None,
        dtype: Any = None,
        max_length: int | None = None,
        max_width: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        variant: str | None = None,
        use_safetensors: bool | None = None,
        show_progress: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model from a Hub id or folder, converting it once into the local cache.

        Args:
            model_id: A Hub id, or a folder with gliner_config.json and model.safetensors or pytorch_model.bin. The
                config and tokenizer of its backbone are read from the Hub where the repo has none.
            quantization_config: A recipe's name ("q8", "q4", ...), a dict or an MLXQuantizationConfig for the
                encoders; the layers after them stay in float. None keeps all weights as they are.
            dtype: The dtype that weights are stored in, as a name or a dtype of mx, torch or numpy. None or "auto" is
                the checkpoint's own, float16 for the tensors next to quantized ones.
            max_length: Most words of a text. Default: `max_len` of gliner_config.json.
            max_width: Most words of an entity. Default: `max_width` of gliner_config.json.
            revision: Branch, tag or commit on the Hub.
            token: The Hub's access token; True for the stored one.
            cache_dir: Folder of the Hub's cache.
            local_files_only: Whether to use only files that are already in the cache.
            force_download: Whether to download files again.
            subfolder: Folder of the model inside the repo.
            variant: The word in the weight files' names ("fp16": model.fp16.safetensors).
            use_safetensors: True refuses .bin files, False reads only these. Default: safetensors where there are some.
            show_progress: Whether to show a progress bar during conversion.
            **kwargs: gliner's other arguments. `map_location`, `strict` and the like are accepted without effect; those
                that would change the model are refused.

        Returns:
            The model.

        Raises:
            RepositoryError: If a repo, folder or file that is needed is not found.
            CheckpointError: If a weight file is broken, truncated or in a format that cannot be read.
            ConfigError: If gliner_config.json or `dtype` has a value that is not valid.
            WeightsError: If tensors are missing, unexpected, or of another shape than the config says.
            UnsupportedModelError: If the model is of a kind that is not computed here.
            QuantizationError: If the recipe is unknown, or contradicts how the weights are already quantized.
            ArgumentTypeError: If an argument is unknown.
        """
        _check_arguments(kwargs)
        cache = None if cache_dir is None else str(cache_dir)
        options = HubOptions(
            revision, token, cache, local_files_only, force_download, subfolder, variant, use_safetensors
        )
        loaded = load_gliner(model_id, options, quantization_config, "auto" if dtype is None else dtype, show_progress)
        for name, value in (("max_length", max_length), ("max_width", max_width)):
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name}={value!r:.80}, expected an integer of 1 or more.")
        length, width = max_length or loaded.config.max_len, max_width or loaded.config.max_width
        config = replace(loaded.config, max_len=length, max_width=width)
        if not config.is_token_level:
            loaded.text.loaded.model.head.spans.max_width = width
        return cls(replace(loaded, config=config), str(model_id))

    @property
    def config(self) -> GLiNERConfig:
        """The values of gliner_config.json that the model is computed with."""
        return self.loaded.config

    def predict_entities(
        self,
        text: str,
        labels: Any,
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        return_class_probs: bool = False,
        **kwargs: Any,
    ) -> list[Entity]:
        """Return the entities of one text.

        Args:
            text: The text.
            labels: The labels to look for: a list, or a mapping of labels to descriptions that the model reads instead.
            flat_ner: Whether entities may not overlap; False allows nested ones. Default: True.
            threshold: The score that an entity must exceed, from 0 to 1. Default: 0.5.
            multi_label: Whether one span may have several labels. Default: False.
            return_class_probs: Whether to add "class_probs", the probabilities of the five best labels of the span; not
                for models that score words. Default: False.
            **kwargs: Further arguments of `inference`.

        Returns:
            Dicts with "start" and "end" (character positions in the text), "text", "label" and "score", in the order of
            the text; [] for an empty text.

        Raises:
            ArgumentTypeError: If the labels are not texts, or an argument is unknown.
            InputError: If an argument has a value that is not valid.
        """
        found = self.inference(
            [text], labels, flat_ner, threshold, multi_label, return_class_probs=return_class_probs, **kwargs
        )
        return found[0]

    def inference(
        self,
        texts: str | Sequence[str],
        labels: Any,
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        batch_size: int = 8,
        packing_config: None = None,
        input_spans: Sequence[Sequence[Mapping[str, int]]] | None = None,
        return_class_probs: bool = False,
        *,
        return_vectors: bool = False,
        return_label_vectors: bool = False,
        labels_embeds: Any = None,
        show_progress: bool = False,
    ) -> list[list[Entity]]:
        """Return the entities of texts.

        Args:
            texts: The texts, or one text.
            labels: As for `predict_entities`, for all texts; or a list with one such list or mapping for each text.
            flat_ner: As for `predict_entities`.
            threshold: As for `predict_entities`.
            multi_label: As for `predict_entities`.
            batch_size: Bounds a batch to 12 * batch_size padded tokens on a CPU, 128 * batch_size on a GPU. Default: 8.
            packing_config: Accepted as None: texts are batched by length.
            input_spans: For each text, dicts with the "start" and "end" of the only spans to consider.
            return_class_probs: As for `predict_entities`.
            return_vectors: Only False is accepted.
            return_label_vectors: Only False is accepted.
            labels_embeds: What `encode_labels` returned for `labels`, (C, D), to embed them once for many calls.
            show_progress: Whether to show a progress bar. Default: False.

        Returns:
            A list of dicts for each text, as for `predict_entities`.

        Raises:
            ArgumentTypeError: If the labels are not texts, or an argument asks for what is not computed here.
            InputError: If an argument has a value that is not valid.
            TokenRangeError: If a text with its labels has more tokens than the model has positions.
            NonFiniteError: If the model computes NaN or infinity for a text.
        """
        if packing_config is not None or return_vectors or return_label_vectors:
            raise ArgumentTypeError(
                "packing_config, return_vectors and return_label_vectors are not computed here. Leave them out."
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        options = Decoding(check_threshold(threshold), bool(flat_ner), bool(multi_label), bool(return_class_probs))
        sets = read_labels(labels, len(texts))
        if input_spans is not None and len(input_spans) != len(texts):
            raise InputError(f"input_spans has {len(input_spans)} lists for {len(texts)} texts, expected one for each.")
        # As in gliner: nothing is found in what is not a text, or an empty one.
        chosen = [i for i, text in enumerate(texts) if isinstance(text, str) and text.strip() and sets[i].prompts]
        embeddings = self._label_embeddings([sets[i] for i in chosen], labels_embeds, batch_size) if chosen else None
        results: list[list[Entity]] = [[] for _ in texts]
        for start in range(0, len(chosen), _TEXTS_AT_ONCE):
            part = chosen[start : start + _TEXTS_AT_ONCE]
            words = [Words.of(texts[i], self.config.max_len) for i in part]
            found = self._scores(words, [sets[i] for i in part], embeddings, batch_size, show_progress)
            for i, split, logits in zip(part, words, found, strict=True):
                allowed = None if input_spans is None else _allowed_spans(input_spans[i], split)
                spans = decode(logits, self.config.is_token_level, sets[i].names, options, allowed)
                results[i] = [entity_of(texts[i], split, sets[i], span) for span in spans]
        return results

    def batch_predict_entities(
        self, texts: Sequence[str], labels: Any, *args: Any, **kwargs: Any
    ) -> list[list[Entity]]:
        """Return the entities of texts; the older name of `inference`, with its FutureWarning in gliner.

        Args:
            texts: The texts.
            labels: As for `inference`.
            *args: flat_ner, threshold and multi_label, as for `inference`.
            **kwargs: As for `inference`.

        Returns:
            As `inference`.
        """
        warnings.warn(
            "batch_predict_entities is deprecated, as in gliner. Use inference instead.", FutureWarning, stacklevel=3
        )
        return self.inference(texts, labels, *args, **kwargs)

    def encode_labels(self, labels: Sequence[str], batch_size: int = 8) -> np.ndarray:
        """Embed labels, for a model with an encoder of its own for them.

        Args:
            labels: The labels.
            batch_size: As for `inference`.

        Returns:
            float32 array of shape (C, D).

        Raises:
            InputError: If the model reads labels before the text, and so has no embeddings of them.
        """
        if self.loaded.labels is None:
            raise InputError(
                f"{self.name_or_path} reads labels together with the text, so they have no embeddings of their own. "
                "Give the labels to inference."
            )
        return embed_labels(self.loaded, [str(label) for label in labels], batch_size)

    def predict_with_embeds(self, text: str, labels_embeddings: Any, labels: Any, **kwargs: Any) -> list[Entity]:
        """Return the entities of one text, with labels that were embedded before.

        Args:
            text: The text.
            labels_embeddings: What `encode_labels` returned for the labels, (C, D).
            labels: The labels.
            **kwargs: Further arguments of `inference`.

        Returns:
            As `predict_entities`.
        """
        return self.inference([text], labels, labels_embeds=labels_embeddings, **kwargs)[0]

    def batch_predict_with_embeds(
        self, texts: Sequence[str], labels_embeddings: Any, labels: Any, **kwargs: Any
    ) -> list[list[Entity]]:
        """Return the entities of texts, with labels that were embedded before.

        Args:
            texts: The texts.
            labels_embeddings: What `encode_labels` returned for the labels, (C, D).
            labels: The labels.
            **kwargs: Further arguments of `inference`.

        Returns:
            As `inference`.
        """
        return self.inference(texts, labels, labels_embeds=labels_embeddings, **kwargs)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the converted model into a folder from which `from_pretrained` loads it, without its backbones.

        Args:
            save_directory: The folder to write into; created if it does not exist.

        Raises:
            RepositoryError: If the folder cannot be written.
        """
        target = Path(save_directory)
        for part, folder in ((self.loaded.text, target), (self.loaded.labels, target / LABELS_FOLDER)):
            if part is not None:
                save_folder(part.loaded.folder, folder, part.loaded.raw_config, part.loaded.dtype)

    def __repr__(self) -> str:
        kind = "bi-encoder" if self.config.is_bi_encoder else "uni-encoder"
        return f"MLXGLiNER({self.name_or_path!r}, {kind}, span_mode={self.config.span_mode!r})"

    def _label_embeddings(self, sets: Sequence[LabelSet], given: Any, batch_size: int) -> dict[str, np.ndarray] | None:
        """Return the embedding of each prompt; None for a model that reads labels before the text."""
        if self.loaded.labels is None:
            if given is not None:
                raise InputError(f"labels_embeds was given, and {self.name_or_path} has no encoder of labels. Omit it.")
            return None
        prompts = list(dict.fromkeys(prompt for one in sets for prompt in one.prompts))
        if given is None:
            return dict(zip(prompts, embed_labels(self.loaded, prompts, batch_size), strict=True))
        embeddings = np.asarray(given, np.float32)
        expected = len(sets[0].prompts), self.config.hidden_size
        if any(one != sets[0] for one in sets) or embeddings.shape != expected:
            raise InputError(
                f"labels_embeds has the shape {embeddings.shape}, expected {expected}, a row for each label of a list "
                "that all texts share."
            )
        return dict(zip(sets[0].prompts, embeddings, strict=True))

    def _scores(
        self,
        texts: Sequence[Words],
        sets: Sequence[LabelSet],
        embeddings: Mapping[str, np.ndarray] | None,
        batch_size: int,
        show_progress: bool,
    ) -> list[np.ndarray]:
        """Return the logits of each text, at its own words and labels only."""
        part = self.loaded.text
        prompts = [one.prompts for one in sets]
        tokens = list(tokenize(part.tokenizer, self.config, texts, prompts, self.loaded.class_token))
        self._warn_if_truncated(texts, [one.truncated for one in tokens])
        found = score(self.loaded, tokens, prompts, embeddings, batch_size, show_progress)
        check_finite(found, self.name_or_path)
        return found

    def _warn_if_truncated(self, texts: Sequence[Words], cut: Sequence[bool]) -> None:
        """Warn of truncated texts, once for each model."""
        words = sum(text.truncated for text in texts)
        if self._has_warned or not (words or any(cut)):
            return
        self._has_warned = True
        what = f"{words} of {len(texts)} texts have more than {self.config.max_len} words"
        if not words:
            limit = self.loaded.text.max_length
            what = f"{sum(cut)} of {len(texts)} texts have more than {limit} tokens with their labels"
        logger.warning(
            "%s and were truncated; further warnings of this model are suppressed. Split them to have every part read.",
            what,
        )


def _check_arguments(kwargs: Mapping[str, Any]) -> None:
    """Raise ArgumentTypeError for arguments of gliner that would change the model, and for unknown ones."""
    for name, value in kwargs.items():
        if name not in _WITHOUT_EFFECT and not any(value is one or value == one for one in _NEUTRAL.get(name, ())):
            raise ArgumentTypeError(
                f"from_pretrained() got {name}={value!r:.80}, which it does not take. Omit it; for quantized weights "
                "pass quantization_config."
            )


def check_threshold(given: Any) -> float:
    """Return a threshold that is a number from 0 to 1; InputError is raised for any other."""
    if isinstance(given, (bool, str)) or not isinstance(given, (int, float, np.number)) or not 0 <= given <= 1:
        raise InputError(f"threshold={given!r:.80}, expected a number from 0 to 1.")
    return float(given)


def _allowed_spans(spans: Sequence[Mapping[str, int]], words: Words) -> set[tuple[int, int]]:
    """Return the first and last words of spans; as in gliner, spans that cut words are left out."""
    first = {start: index for index, start in enumerate(words.starts)}
    last = {end: index for index, end in enumerate(words.ends)}
    found = {(first.get(span["start"]), last.get(span["end"])) for span in spans}
    return {(start, end) for start, end in found if start is not None and end is not None and start <= end}
