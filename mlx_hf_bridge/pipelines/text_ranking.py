"""Text ranking: documents in the order in which they fit a query, by a cross-encoder's score.

transformers has no such pipeline; reference: sentence-transformers' CrossEncoder.rank
(sentence_transformers/cross_encoder/model.py). D documents.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, UnknownNameError
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.text_inputs import check_tokenizer_options, tokenize_texts

Ranked = list[dict[str, Any]]

# Read only where both are.
_CONFIG_FILE, _MODULES_FILE = "config_sentence_transformers.json", "modules.json"


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Without the overflow that 1 / (1 + exp(-x)) has for large negative values."""
    shares: np.ndarray = np.exp(-np.logaddexp(0, -values))
    return shares


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "none": lambda values: values,
}
# The ends of the torch names that sentence-transformers writes.
_SAVED = {"Identity": "none", "Sigmoid": "sigmoid", "Tanh": "tanh"}


@final
class TextRankingPipeline(Pipeline):
    """Documents in the order in which they fit a query, as sentence-transformers' CrossEncoder.rank gives them.

    query and documents, or {"query", "documents"}, a list or a stream of these -> [{"corpus_id", "score"}], best first;
    corpus_id: the document's place in the list. top_k: how many, None = all. return_documents: each has its "text" too.
    function_to_apply: "sigmoid", "tanh", "none", or, left out, the one that the checkpoint names (sigmoid where it
    names none). A pair too long for the model is cut, at max_length if given, and a warning logged once. Raises
    ConfigError for a model with more than one label, InputError (ValueError) for what is no query with documents.
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
        self._own_function = _saved_function(self.model)

    def __call__(self, *inputs: Any, query: Any = None, documents: Any = None, **options: Any) -> Any:
        if len(inputs) == 1 and documents is not None and query is None:
            query, inputs = inputs[0], ()
        elif len(inputs) == 2 and query is None and documents is None:
            (query, documents), inputs = inputs, ()
        if not inputs:
            return super().__call__({"query": query, "documents": documents}, **options)
        if len(inputs) > 1 or query is not None or documents is not None:
            raise InputError(f"got {len(inputs)} arguments beside query and documents. Pass a query and its documents.")
        return super().__call__(inputs[0], **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_tokenizer_options({"max_length": options.get("max_length")})
        top_k, function = options.get("top_k"), options.get("function_to_apply")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
            raise ArgumentTypeError(f"top_k={top_k!r}, expected a whole number of documents, or None for all.")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k={top_k}, expected 1 or more, or None for all documents.")
        if function is not None and function not in _FUNCTIONS:
            raise UnknownNameError(f"function_to_apply={function!r} is not known; use one of {', '.join(_FUNCTIONS)}.")
        before = {name: value for name, value in options.items() if name == "max_length"}
        return before, {}, {name: value for name, value in options.items() if name != "max_length"}

    def _preprocess_texts(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        examples = [_example(text) for text in texts]
        pairs = [(query, document) for query, documents in examples for document in documents]
        options = {**before, "truncation": "longest_first"}
        chunks = zip(pairs, tokenize_texts(self.tokenizer, pairs, options), strict=True)
        self._warn_if_truncated(self.tokenizer.pop_truncated_count(), len(pairs))
        return [
            [{**chunk, "text": pair[1]} for pair, chunk in (next(chunks) for _ in documents)]
            for _, documents in examples
        ]

    def _postprocess_text(self, outputs: list[Any], after: dict[str, Any]) -> Ranked:
        return self.postprocess(outputs, **after)

    def postprocess(
        self,
        model_outputs: list[Chunk],
        top_k: int | None = None,
        return_documents: bool = False,
        function_to_apply: str | None = None,
    ) -> Ranked:
        """What was said of a query with each document -> the documents' places and scores, best first."""
        logits = np.array([output["logits"][0, 0] for output in model_outputs])
        scores = _FUNCTIONS[function_to_apply or self._own_function](logits)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {
                "corpus_id": int(place),
                "score": float(scores[place]),
                **({"text": model_outputs[place]["text"]} if return_documents else {}),
            }
            for place in order
        ]


def _example(given: Any) -> tuple[str, list[str]]:
    """One query with its documents, checked."""
    match given:
        case {"query": str() as query, "documents": list() | tuple() as documents}:
            if not documents:
                raise InputError("documents is empty, expected at least one.")
            if all(isinstance(document, str) for document in documents):
                return query, list(documents)
    raise InputError(
        f"one input is {given!r:.120}, expected a query (a text) and documents (a list of texts). "
        'Pass them by name, or as {"query": ..., "documents": [...]}.'
    )


def _saved_function(model: Any) -> str:
    """What the checkpoint's files say is applied to its scores, in the order in which sentence-transformers looks."""
    folder, raw = model.folder, model.config.to_dict()
    whole = all((folder / name).is_file() for name in (_CONFIG_FILE, _MODULES_FILE))
    files: list[Mapping[str, Any]] = [
        read_json(folder / _CONFIG_FILE) if whole else {},
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
