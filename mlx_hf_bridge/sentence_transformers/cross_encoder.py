"""MLXCrossEncoder: pairs of texts become scores, as in sentence-transformers, computed by MLX.

Reference: sentence_transformers/cross_encoder/model.py. N pairs, C labels.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import encode_texts
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool
from mlx_hf_bridge.sentence_transformers.encoding.results import convert_embeddings, stack_rows, to_numpy
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.activations import ACTIVATIONS, NamedActivation, parse_activation
from mlx_hf_bridge.sentence_transformers.modules.base import SCORES, Module
from mlx_hf_bridge.sentence_transformers.modules.logit_score import LogitScore
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import parse_settings, refuse_chat_template
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense

logger = logging.getLogger(__name__)

Activation = Callable[[Any], Any]

# The words whose scores a plain causal language model is compared by.
_TRUE, _FALSE = "yes", "no"


class MLXCrossEncoder(MLXBaseModel):
    """sentence_transformers.CrossEncoder on MLX, for sequence classifiers, with or without modules.json."""

    model_type: ClassVar[str] = "CrossEncoder"
    default_huggingface_organization: ClassVar[str | None] = "cross-encoder"
    _default_prompts: ClassVar[Mapping[str, str | None]] = {}

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: Sequence[Module] | None = None,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "mlx",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        overlong: str = "truncate",
    ) -> None:
        """Load a folder, a Hub id, or a name of the organisation cross-encoder; or take modules.

        num_labels: must be what the checkpoint has, since no head is started at random. activation_fn: of MLX arrays,
        or a torch module; None = the saved one, else a sigmoid for one label and nothing for more. The others are as
        of MLXSentenceTransformer.
        """
        labels = {} if num_labels is None else {"num_labels": num_labels}
        length = {} if max_length is None else {"model_max_length": max_length}
        super().__init__(
            model_name_or_path,
            modules=modules,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            model_kwargs=model_kwargs,
            processor_kwargs={**(processor_kwargs or {}), **length},
            config_kwargs={**(config_kwargs or {}), **labels},
            backend=backend,
            quantization_config=quantization_config,
            dtype=dtype,
            overlong=overlong,
        )
        asked = self._arguments.num_labels
        if asked is not None and asked != self.num_labels:
            raise ConfigError(
                f"num_labels={asked}, and the checkpoint has {self.num_labels}; a head of another size would start at "
                "random. Leave num_labels out."
            )
        self.activation_fn = self._saved_activation() if activation_fn is None else activation_fn
        self.set_keep_in_fp32_modules(keep_in_fp32_modules or [])

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """A sequence classifier; of a causal language model the lead of "yes" over "no"."""
        source, folder = loader.source, loader.source.folder
        refuse_chat_template(folder, source.name)
        architecture = str((loader.read_config().get("architectures") or [""])[0])
        if not architecture.endswith("ForCausalLM"):
            settings = parse_settings({}, "sequence-classification", str(folder))
            return [loader.load_transformer(source, folder, settings=settings)]
        transformer = loader.load_transformer(
            source, folder, settings=parse_settings({}, "text-generation", str(folder))
        )
        true_id, false_id = (transformer.tokenizer.backend.token_to_id(word) for word in (_TRUE, _FALSE))
        if true_id is None or false_id is None:
            raise ConfigError(
                f"{source.name} is a language model whose tokenizer lacks the words {_TRUE!r} and {_FALSE!r}, by which "
                "it would be scored. Save it with a LogitScore module of its own words."
            )
        return [transformer, LogitScore(true_id, false_id)]

    @property
    def num_labels(self) -> int:
        """C."""
        for module in reversed(self._modules):
            if isinstance(module, Dense) and module.module_output_name == SCORES:
                return module.out_features
            if isinstance(module, LogitScore):
                return 1
            if isinstance(module, Transformer):
                return int(module.loaded.config.num_labels)
        return 1

    @property
    def model(self) -> MLXPreTrainedModel | None:
        """The classifier, as MLXAutoModelForSequenceClassification gives it."""
        return self.transformers_model

    @property
    def max_length(self) -> Any:
        """max_seq_length, by its older name."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, length: int) -> None:
        self.max_seq_length = length

    @property
    def default_activation_function(self) -> Activation:
        """activation_fn, by its older name."""
        return self.activation_fn

    def get_default_activation_fn(self) -> Activation:
        """What config.json says, in its present and its older key, else by the number of labels."""
        config = self._transformer.loaded.raw_config if self._transformer else {}
        own = config.get("sentence_transformers")
        reference = own.get("activation_fn") if isinstance(own, dict) else None
        reference = reference or config.get("sbert_ce_default_activation_function")
        return _activation(reference) or NamedActivation("Sigmoid" if self.num_labels == 1 else "Identity")

    def set_keep_in_fp32_modules(self, module_names: Sequence[str]) -> None:
        """An empty list; InputError for any other, as from every backend but torch."""
        if module_names:
            raise InputError(f"keep_in_fp32_modules={list(module_names)} is of the torch backend only. Leave it out.")
        self.keep_in_fp32_modules: list[str] = []

    def is_singular_input(self, inputs: Any) -> bool:
        """Whether this is one pair rather than several."""
        if isinstance(inputs, np.ndarray):
            return inputs.size > 0 and inputs.ndim < 2
        if not isinstance(inputs, (list, tuple)):
            return super().is_singular_input(inputs)
        return len(inputs) > 0 and not isinstance(inputs[0], (list, tuple))

    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Pool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """A pair of texts -> its score, or its scores (C,); pairs -> (N,) for one label, (N, C) for more, in float32.

        activation_fn: in place of the model's. apply_softmax: over the labels, after the activation. The others are as
        of MLXSentenceTransformer.encode, and so are the errors.
        """
        self._check_kwargs("predict", kwargs)
        single = self.is_singular_input(inputs)
        given = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
        pairs = [given] if single else list(given)
        logits = self._compute_rows(
            pairs,
            device,
            pool,
            chunk_size,
            show_progress_bar,
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            **kwargs,
        )
        activation = self.activation_fn if activation_fn is None else activation_fn
        scores = self._scores(logits, activation, bool(apply_softmax)) if len(logits) else []
        answer = convert_embeddings(scores, convert_to_numpy and not convert_to_tensor, convert_to_tensor)
        return answer[0] if single else answer

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        pool: Pool | None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Documents for a query, best first -> dicts with corpus_id, score and, where asked, text.

        InputError for a model with several labels.
        """
        if self.num_labels != 1:
            raise InputError(
                f"rank() needs a model with one label, and this one has {self.num_labels}. Use predict() with pairs."
            )
        scores = self.predict(
            [(query, document) for document in documents],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        results: list[dict[str, Any]] = [{"corpus_id": index, "score": score} for index, score in enumerate(scores)]
        if return_documents:
            for result in results:
                result["text"] = documents[result["corpus_id"]]
        return sorted(results, key=lambda result: -result["score"])[:top_k]

    def _inference(
        self, inputs: list[Any], *, show_progress: bool = False, prompt: str = "", batch_size: int = 32, **kwargs: Any
    ) -> Results:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)
        return encode_texts(
            self._modules,
            texts,
            options,
            postprocess=lambda features: features[SCORES],
            batch_size=batch_size,
            show_progress=show_progress,
        )

    def _scores(self, logits: Results, activation: Activation, softmax: bool) -> list[np.ndarray]:
        scores = apply_activation(activation, stack_rows(logits))
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        if softmax and scores.ndim > 1:
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = powers / powers.sum(axis=1, keepdims=True)
        return list(scores)

    def _saved_activation(self) -> Activation:
        return _activation(self._saved_config.get("activation_fn")) or self.get_default_activation_fn()

    def _model_config(self) -> dict[str, Any]:
        kind = type(self.activation_fn)
        activation = NamedActivation(kind.__name__) if kind.__name__ in ACTIVATIONS else self.activation_fn
        reference = getattr(activation, "reference", f"{kind.__module__}.{kind.__name__}")
        return {**super()._model_config(), "activation_fn": reference}


def apply_activation(activation: Activation, logits: np.ndarray) -> np.ndarray:
    """An activation of MLX arrays, or a torch module, of logits (N, C) float32."""
    if any(base.__module__.partition(".")[0] == "torch" for base in type(activation).__mro__):
        import torch

        return to_numpy(activation(torch.from_numpy(logits)))
    result = run(lambda: activation(mx.array(logits)))
    return np.array(result, np.float32)


def _activation(reference: Any) -> Activation | None:
    """torch's dotted name -> the activation; None without one, and with a warning for code of the repo's own."""
    if not reference:
        return None
    if not str(reference).startswith("torch."):
        logger.warning("the saved activation %r is not torch's, and is not run; the usual one is used", reference)
        return None
    return NamedActivation(parse_activation(reference, "the saved model"))
