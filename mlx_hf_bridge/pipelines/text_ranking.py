"""The text-ranking pipeline: documents sorted by how well they fit a query, scored by a cross-encoder.

transformers has no such pipeline; reference: sentence-transformers' CrossEncoder.rank
(sentence_transformers/cross_encoder/model.py). D documents.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, UnknownNameError, UnsupportedModelError
from mlx_hf_bridge.inference.plain_values import plain_list
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.text_inputs import check_tokenizer_options, tokenize_texts

Ranked = list[dict[str, Any]]

# sentence-transformers reads the first only if the second is there too.
_CONFIG_FILE, _MODULES_FILE = "config_sentence_transformers.json", "modules.json"
_TRANSFORMER_FILE = "sentence_bert_config.json"


def _reads_messages(model: Any) -> bool:
    """Return whether sentence-transformers uses a chat template: without modules.json, or where its settings say so."""
    folder = model.loaded.folder
    if not (folder / _MODULES_FILE).is_file():
        return True
    saved = read_json(folder / _TRANSFORMER_FILE) if (folder / _TRANSFORMER_FILE).is_file() else {}
    return isinstance(saved, dict) and "message" in (saved.get("modality_config") or {})


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Compute the sigmoid without the overflow that 1 / (1 + exp(-x)) has for large negative values."""
    probabilities: np.ndarray = np.exp(-np.logaddexp(0, -values))
    return probabilities


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "none": lambda values: values,
}
# The last parts of the torch class names that sentence-transformers saves.
_SAVED = {"Identity": "none", "Sigmoid": "sigmoid", "Tanh": "tanh"}


@final
class TextRankingPipeline(Pipeline):
    """Sort documents by how well they fit a query, like sentence-transformers' CrossEncoder.rank.

    Args:
        parts: The model and the tokenizer, by position; see Pipeline.
        options: Defaults for the options of a call, and Pipeline's own arguments.

    Raises:
        ConfigError: If the model has more than one label.
        UnsupportedModelError: If sentence-transformers would apply the tokenizer's chat template.

    Call arguments:
        query, documents: A text and a list of texts. Or, by position, {"query": ..., "documents": [...]}, or a list or
            stream of such dicts.
        top_k: How many documents to return; None for all. Default: None.
        return_documents: Whether each result has its "text" too. Default: False.
        function_to_apply: "sigmoid", "tanh" or "none". Default: what the checkpoint names, else "sigmoid".
        max_length: Truncate pairs at this many tokens. Default: the model's limit. A warning is logged once.
        batch_size: See Pipeline.

    Call result:
        [{"corpus_id", "score"}], best first, where corpus_id is the document's index in the list. A list of queries
        gives a list, a stream an iterator.

    Call errors:
        InputError (a ValueError) if an input is not a query with documents.
    """

    task: ClassVar[str] = "text-ranking"
    accepted_options: ClassVar[tuple[str, ...]] = ("top_k", "return_documents", "function_to_apply", "max_length")
    sequences_at_once: ClassVar[int] = 256

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        if self.model.config.num_labels != 1:
            raise ConfigError(
                f"{self.model.name_or_path} has {self.model.config.num_labels} labels, expected one score for a query "
                "with a document. Use text-classification, or a cross-encoder made for ranking."
            )
        if getattr(self.tokenizer, "chat_template", None) is not None and _reads_messages(self.model):
            raise UnsupportedModelError(
                f"{self.model.name_or_path} reads pairs through a chat template, which this pipeline does not apply. "
                "Use MLXCrossEncoder(...).rank(query, documents)."
            )
        self._own_function = _saved_function(self.model)

    def __call__(self, *inputs: Any, query: Any = None, documents: Any = None, **options: Any) -> Any:
        """Rank documents.

        Args:
            inputs: A query and its documents by position, or one {"query", "documents"}, or a list or stream of these.
            query: The query.
            documents: The documents, a list of texts.
            options: top_k and the others of the class's docstring.

        Returns:
            [{"corpus_id", "score"}] for one query, best first; a list of these for a list, an iterator for a stream.

        Raises:
            InputError: If there are other arguments than a query and its documents.
        """
        if len(inputs) == 1 and documents is not None and query is None:
            query, inputs = inputs[0], ()
        elif len(inputs) == 2 and query is None and documents is None:
            (query, documents), inputs = inputs, ()
        if not inputs:
            return super().__call__({"query": query, "documents": documents}, **options)
        if len(inputs) > 1 or query is not None or documents is not None:
            raise InputError(
                f"got {len(inputs)} positional arguments in addition to query and documents. Pass one query and its "
                "documents."
            )
        return super().__call__(inputs[0], **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_tokenizer_options({"max_length": options.get("max_length")})
        top_k, function = options.get("top_k"), options.get("function_to_apply")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
            raise ArgumentTypeError(f"top_k={top_k!r}, expected an integer number of documents, or None for all.")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k={top_k}, expected 1 or more, or None for all documents.")
        if function is not None and function not in _FUNCTIONS:
            raise UnknownNameError(f"function_to_apply={function!r} is not known; use one of {', '.join(_FUNCTIONS)}.")
        preprocess_params = {name: value for name, value in options.items() if name == "max_length"}
        return preprocess_params, {}, {name: value for name, value in options.items() if name != "max_length"}

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        examples = [_example(text) for text in texts]
        pairs = [(query, document) for query, documents in examples for document in documents]
        options = {**preprocess_params, "truncation": "longest_first"}
        chunks = zip(pairs, tokenize_texts(self.tokenizer, pairs, options), strict=True)
        self._warn_if_truncated(self.tokenizer.pop_truncated_count(), len(pairs))
        return [
            [{**chunk, "text": pair[1]} for pair, chunk in (next(chunks) for _ in documents)]
            for _, documents in examples
        ]

    def _postprocess_text(self, outputs: list[Any], postprocess_params: dict[str, Any]) -> Ranked:
        return self.postprocess(outputs, **postprocess_params)

    def postprocess(
        self,
        model_outputs: list[Chunk],
        top_k: int | None = None,
        return_documents: bool = False,
        function_to_apply: str | None = None,
    ) -> Ranked:
        """Sort the documents of one query.

        Args:
            model_outputs: The documents with their "logits", (1, 1).
            top_k: How many to return; None for all.
            return_documents: Whether each result has its "text" too.
            function_to_apply: "sigmoid", "tanh", "none", or None for the checkpoint's own.

        Returns:
            [{"corpus_id", "score"}], best first.
        """
        logits = np.array([output["logits"][0, 0] for output in model_outputs])
        scores = _FUNCTIONS[function_to_apply or self._own_function](logits)
        # Stable, so that equal documents keep their order.
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {
                "corpus_id": int(index),
                "score": float(scores[index]),
                **({"text": model_outputs[index]["text"]} if return_documents else {}),
            }
            for index in order
        ]


def _example(given: Any) -> tuple[str, list[str]]:
    """Return one query with its documents, checked."""
    match given:
        case {"query": str() as query, "documents": listed}:
            documents = plain_list(listed)
            if documents == []:
                raise InputError("documents is empty, expected at least one.")
            if isinstance(documents, list) and all(isinstance(document, str) for document in documents):
                return query, documents
    raise InputError(
        f"one input is {given!r:.120}, expected a query (a text) and documents (a list of texts). "
        'Pass them by name, or as {"query": ..., "documents": [...]}.'
    )


def _saved_function(model: Any) -> str:
    """Return the function that the checkpoint's files name, looked for in sentence-transformers' order."""
    folder, raw = model.folder, model.config.to_dict()
    has_both = all((folder / name).is_file() for name in (_CONFIG_FILE, _MODULES_FILE))
    files: list[Mapping[str, Any]] = [
        read_json(folder / _CONFIG_FILE) if has_both else {},
        raw.get("sentence_transformers") or {},
    ]
    names = [*(file.get("activation_fn") for file in files), raw.get("sbert_ce_default_activation_function")]
    named = next((name for name in names if name), None)
    if named is None:
        return "sigmoid"
    last = str(named).rpartition(".")[2]
    if last not in _SAVED:
        raise ConfigError(
            f"{model.name_or_path} applies {named!r} to its scores; known are {', '.join(_SAVED)}. Use "
            "sentence-transformers for this model."
        )
    return _SAVED[last]
