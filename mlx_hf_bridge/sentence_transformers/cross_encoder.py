"""MLXCrossEncoder: scores of pairs of texts as in sentence-transformers, computed with MLX.

Reference: sentence_transformers/cross_encoder/model.py.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.inference.tokenizer import Text
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import TextPipeline, text_pipeline
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool, Workers
from mlx_hf_bridge.sentence_transformers.encoding.results import convert_embeddings, stack_rows, to_numpy
from mlx_hf_bridge.sentence_transformers.loading.arguments import ConstructorOptions
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.activations import ACTIVATIONS, NamedActivation, parse_activation
from mlx_hf_bridge.sentence_transformers.modules.base import SCORES, Module
from mlx_hf_bridge.sentence_transformers.modules.logit_score import LogitScore
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import default_settings
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense
from mlx_hf_bridge.sentence_transformers.older_names import deprecated, older_names, older_positions
from mlx_hf_bridge.sentence_transformers.signatures import extends_constructor

logger = logging.getLogger(__name__)

Activation = Callable[[Any], Any]

_CONSTRUCTOR_NAMES = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}
_CALL_NAMES = {"sentences": "inputs", "activation_fct": "activation_fn"}

# A causal language model that names no tokens of its own is scored by the logits of these two.
_TRUE, _FALSE = "yes", "no"


@extends_constructor(MLXBaseModel)
class MLXCrossEncoder(MLXBaseModel):
    """sentence_transformers.CrossEncoder computed with MLX: a score, or a score for each label, for a pair of texts.

    Loads sequence classifiers, with or without modules.json, and rerankers that are causal language models.

    Args:
        model_name_or_path: A folder, or a model id on the Hugging Face Hub. An id without an organization is looked
            up in "cross-encoder" first. Default: None, which needs `modules`.
        num_labels: The number of labels, which must be that of the checkpoint, since no head is randomly
            initialized. Default: None, the checkpoint's.
        max_length: The most tokens of a pair, special tokens included; longer pairs are truncated. Default: None, the
            saved number, or else what the model has positions for.
        activation_fn: A function of the logits, on MLX arrays, or a module of torch. Default: None, the saved one, or
            else a sigmoid for one label and the identity for several.
        keep_in_fp32_modules: Must be None or empty: only the torch backend of sentence-transformers has it.
        **kwargs: Arguments that all model classes share, each with a default: modules, device, prompts,
            default_prompt_name, cache_folder, trust_remote_code, revision, local_files_only, token, model_kwargs,
            processor_kwargs, config_kwargs, model_card_data, backend, quantization_config, dtype and overlong.
            MLXBaseModel describes them, and so does help(MLXCrossEncoder).

    Example:
        >>> from mlx_hf_bridge import MLXCrossEncoder
        >>> model = MLXCrossEncoder("ms-marco-MiniLM-L6-v2")
        >>> query = "how do plants eat?"
        >>> scores = model.predict([(query, "Photosynthesis turns light into sugar."), (query, "Rust is a language.")])
        >>> scores.shape
        (2,)
    """

    model_type: ClassVar[str] = "CrossEncoder"
    default_huggingface_organization: ClassVar[str | None] = "cross-encoder"
    _default_prompts: ClassVar[Mapping[str, str | None]] = {}

    @older_positions(("num_labels", "max_length", "activation_fn", "device"))
    @older_names(_CONSTRUCTOR_NAMES, ("classifier_dropout",))
    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
        **kwargs: Unpack[ConstructorOptions],
    ) -> None:
        if num_labels is not None:
            kwargs["config_kwargs"] = {**(kwargs.get("config_kwargs") or {}), "num_labels": num_labels}
        if max_length is not None:
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "model_max_length": max_length}
        super().__init__(model_name_or_path, **kwargs)
        requested = self._arguments.num_labels
        if requested is not None and requested != self.num_labels:
            raise ConfigError(
                f"num_labels={requested}, but the checkpoint has {self.num_labels}; another number would need a head "
                "that is randomly initialized. Leave num_labels out."
            )
        self.activation_fn = self._saved_activation() if activation_fn is None else activation_fn
        self.set_keep_in_fp32_modules(keep_in_fp32_modules or [])

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """Return a sequence classifier; for a causal language model, the difference of the logits of "yes" and "no"."""
        source, folder = loader.source, loader.source.folder
        architecture = str((loader.read_config().get("architectures") or [""])[0])
        if not architecture.endswith("ForCausalLM"):
            settings = default_settings("sequence-classification", str(folder))
            return [loader.load_transformer(source, folder, settings=settings)]
        transformer = loader.load_transformer(source, folder, settings=default_settings("text-generation", str(folder)))
        true_id, false_id = (transformer.tokenizer.backend.token_to_id(word) for word in (_TRUE, _FALSE))
        if true_id is None or false_id is None:
            raise ConfigError(
                f"{source.name} is a causal language model whose tokenizer lacks the tokens {_TRUE!r} and {_FALSE!r}, "
                "which pairs would be scored by. Save it with a LogitScore module that names its tokens."
            )
        return [transformer, LogitScore(true_id, false_id)]

    @property
    def num_labels(self) -> int:
        """The number of labels, and of scores for a pair."""
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
        """The encoder with its head, as MLXAutoModelForSequenceClassification loads it; None without a Transformer."""
        return self.transformers_model

    @property
    @deprecated("max_length is an older name. Use max_seq_length.")
    def max_length(self) -> Any:
        """The most tokens of a pair; an older name of `max_seq_length`."""
        return self.max_seq_length

    @max_length.setter
    @deprecated("max_length is an older name. Use max_seq_length.")
    def max_length(self, length: int) -> None:
        self.max_seq_length = length

    @property
    @deprecated("default_activation_function is an older name. Use activation_fn.")
    def default_activation_function(self) -> Activation:
        """The activation function; an older name of `activation_fn`."""
        return self.activation_fn

    def get_default_activation_fn(self) -> Activation:
        """Return the activation function that config.json names, or else the default for the number of labels.

        Returns:
            A function of MLX arrays; without a name in config.json a sigmoid for one label, the identity for several.
        """
        config = self._transformer.loaded.raw_config if self._transformer else {}
        own = config.get("sentence_transformers")
        reference = own.get("activation_fn") if isinstance(own, dict) else None
        # The key that sentence-transformers wrote before version 4.
        reference = reference or config.get("sbert_ce_default_activation_function")
        return _activation(reference) or NamedActivation("Sigmoid" if self.num_labels == 1 else "Identity")

    def set_keep_in_fp32_modules(self, module_names: Sequence[str]) -> None:
        """Accept only an empty list: keeping modules in float32 is a feature of the torch backend.

        Args:
            module_names: Must be empty.

        Raises:
            InputError: If any module is named.
        """
        if module_names:
            raise InputError(
                f"keep_in_fp32_modules={list(module_names)} is not supported; only the torch backend of "
                "sentence-transformers has it. Leave it out."
            )
        self.keep_in_fp32_modules: list[str] = []

    def is_singular_input(self, inputs: Any) -> bool:
        """Return whether inputs are a single pair rather than several.

        Args:
            inputs: What `predict` was given.

        Returns:
            True for a pair of texts, or an array of one axis; False for a list of pairs.
        """
        if isinstance(inputs, np.ndarray):
            return inputs.size > 0 and inputs.ndim < 2
        if not isinstance(inputs, (list, tuple)):
            return super().is_singular_input(inputs)
        return len(inputs) > 0 and not isinstance(inputs[0], (list, tuple))

    @older_names(_CALL_NAMES, ("num_workers",))
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
        """Return the scores of pairs of texts.

        Args:
            inputs: A pair of texts, or a list, a tuple or a numpy array (N, 2) of pairs.
            prompt_name: The name of the prompt in `prompts` to put before the first text of every pair. Default: None,
                the model's `default_prompt_name`.
            prompt: A text to put before the first text of every pair, instead of a named prompt. Default: None.
            batch_size: Bounds the size of a batch: padding included, it has at most batch_size x 12 tokens on a CPU and
                batch_size x 128 on a GPU, so that short pairs go in larger batches. Default: 32.
            show_progress_bar: Whether to show a progress bar. Default: None, which shows one if this package logs at
                level INFO or DEBUG.
            activation_fn: A function of the logits, on MLX arrays, or a module of torch. Default: None, the model's
                `activation_fn`.
            apply_softmax: Apply a softmax over the labels, after the activation. Default: False.
            convert_to_numpy: Return one numpy array. Default: True.
            convert_to_tensor: Return one torch tensor; takes precedence over convert_to_numpy. Default: False.
            device: A list of devices, of which each gets a worker process for this call; anything else is ignored,
                since MLX selects its device itself. Default: None.
            pool: Worker processes of `start_multi_process_pool` to compute in. Default: None.
            chunk_size: How many pairs a worker process gets at a time. Default: None, chosen by the number of pairs.
            **kwargs: `processing_kwargs` (a dict of tokenizer options), and what `get_model_kwargs` names.

        Returns:
            float32 scores in the order of the pairs: (N,) for a model with one label, (N, labels) for several; for a
            single pair one number, or (labels,). A numpy array, a torch tensor with convert_to_tensor, or a list of MLX
            arrays with convert_to_numpy=False.

        Raises:
            InputError: If an input is not a pair of texts, a prompt name or argument is unknown, or a value is not
                supported.
            OverlongTextError: If a pair is too long and the model was loaded with overlong="error".
            BackendError: If convert_to_tensor is given and torch is not installed.

        Example:
            >>> scores = model.predict([("how do plants eat?", "Photosynthesis turns light into sugar.")])
            >>> scores.shape, scores.dtype
            ((1,), dtype('float32'))
        """
        self._check_kwargs("predict", kwargs)
        single = self.is_singular_input(inputs)
        given = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
        pairs = [given] if single else list(given)
        logits = self._compute_rows(
            pairs,
            Workers(device, pool, chunk_size, show_progress_bar),
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            **kwargs,
        )
        activation = self.activation_fn if activation_fn is None else activation_fn
        scores = self._scores(logits, activation, bool(apply_softmax)) if len(logits) else []
        results = convert_embeddings(scores, convert_to_numpy and not convert_to_tensor, convert_to_tensor)
        return results[0] if single else results

    @older_names(_CALL_NAMES, ("num_workers", "apply_softmax", "convert_to_numpy", "convert_to_tensor"))
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
        """Return documents in the order of their scores for a query.

        Args:
            query: The query.
            documents: The documents.
            top_k: How many are returned. Default: None, all.
            return_documents: Return the texts too. Default: False.
            prompt_name: The name of the prompt in `prompts` to put before the query. Default: None, the model's
                `default_prompt_name`.
            prompt: A text to put before the query, instead of a named prompt. Default: None.
            batch_size: Bounds the number of tokens in a batch, as in `predict`. Default: 32.
            show_progress_bar: Whether to show a progress bar. Default: None, as in `predict`.
            activation_fn: A function of the logits, as in `predict`. Default: None, the model's `activation_fn`.
            device: A list of devices to start a worker process for each, as in `predict`. Default: None.
            pool: Worker processes of `start_multi_process_pool` to compute in. Default: None.
            chunk_size: How many documents a worker process gets at a time. Default: None, chosen by their number.

        Returns:
            A dict for each document, highest score first: "corpus_id", its index in `documents`; "score", a float; and
            with return_documents "text".

        Raises:
            InputError: If the model has several labels, or an argument that `predict` does not take.

        Example:
            >>> documents = ["Rust is a language.", "Photosynthesis turns light into sugar."]
            >>> model.rank("how do plants eat?", documents, top_k=1, return_documents=True)
            [{'corpus_id': 1, 'score': 0.93, 'text': 'Photosynthesis turns light into sugar.'}]
        """
        if self.num_labels != 1:
            raise InputError(
                f"rank() needs a model with one label, but this one has {self.num_labels}. Use predict() with pairs."
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

    def _text_pipeline(self, inputs: list[Any], *, prompt: str = "", **kwargs: Any) -> tuple[list[Text], TextPipeline]:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)
        return texts, text_pipeline(self._modules, options, postprocess=lambda features: features[SCORES])

    def _scores(self, logits: Results, activation: Activation, softmax: bool) -> list[np.ndarray]:
        scores = apply_activation(activation, stack_rows(logits))
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        if softmax and scores.ndim > 1:
            # Without its maximum a large logit would overflow exp.
            exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = exponentials / exponentials.sum(axis=1, keepdims=True)
        return list(scores)

    def _saved_activation(self) -> Activation:
        return _activation(self._saved_config.get("activation_fn")) or self.get_default_activation_fn()

    def _model_config(self) -> dict[str, Any]:
        cls = type(self.activation_fn)
        activation = NamedActivation(cls.__name__) if cls.__name__ in ACTIVATIONS else self.activation_fn
        reference = getattr(activation, "reference", f"{cls.__module__}.{cls.__name__}")
        return {**super()._model_config(), "activation_fn": reference}


def apply_activation(activation: Activation, logits: np.ndarray) -> np.ndarray:
    """Apply an activation function to logits.

    Args:
        activation: A function of MLX arrays or of torch tensors, or a module of torch.
        logits: Logits (N, labels), float32.

    Returns:
        A float32 array of whatever shape the function returns.

    Raises:
        InputError: If the function is for neither.
    """
    if any(base.__module__.partition(".")[0] == "torch" for base in type(activation).__mro__):
        return _apply_to_tensor(activation, logits)
    try:
        result = run(lambda: activation(mx.array(logits)))
    # What functions of torch raise for another array: a missing method, or a wrong type.
    except (TypeError, AttributeError) as error:
        if "torch" not in sys.modules:
            raise InputError(
                f"activation_fn cannot be applied to an MLX array ({error}). Use functions of mlx."
            ) from error
        return _apply_to_tensor(activation, logits)
    return to_numpy(result).astype(np.float32)


def _apply_to_tensor(activation: Activation, logits: np.ndarray) -> np.ndarray:
    import torch

    try:
        return to_numpy(activation(torch.from_numpy(logits)))
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"activation_fn is applied neither to an MLX array nor to a torch tensor ({error}). Give a function of one."
        ) from error


def _activation(reference: Any) -> Activation | None:
    """Return the activation that a dotted name of torch names; None, with a warning, for a class of the repository."""
    if not reference:
        return None
    if not str(reference).startswith("torch."):
        logger.warning("the saved activation %r is not a class of torch and is not run; using the default", reference)
        return None
    return NamedActivation(parse_activation(reference, "the saved model"))
