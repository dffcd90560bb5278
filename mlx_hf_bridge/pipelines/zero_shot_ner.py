"""The zero-shot-ner pipeline: entities with labels that are given with each call, by a GLiNER model.

transformers has no such task; results are those of the gliner package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import mlx.core as mx

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.gliner.model import MLXGLiNER
from mlx_hf_bridge.pipelines.base import Pipeline, check_batch_size
from mlx_hf_bridge.pipelines.inputs import run_on_inputs

# gliner's default.
_BATCH_SIZE = 8
_TEXTS_AT_ONCE = 1024


@final
class ZeroShotNERPipeline(Pipeline):
    """Return the entities of texts, with any labels.

    Args:
        model: A model from MLXGLiNER.from_pretrained.
        tokenizer: Only None: a GLiNER model has its own.
        batch_size: See Pipeline. Default: 8.
        num_workers: Accepted without effect.
        show_progress: Show a progress bar for the batches. Default: False.
        options: Defaults for the options of a call.

    Call arguments:
        inputs: A text, a list of texts or a stream of texts.
        labels: A list of labels, or a mapping of labels to descriptions; also by position, or as candidate_labels.
        threshold: The score that an entity must exceed. Default: 0.5.
        flat_ner: Whether entities may not overlap. Default: True.
        multi_label: Whether one span may have several labels. Default: False.
        return_class_probs: Whether to add the probabilities of the five best labels. Default: False.
        batch_size: See Pipeline.

    Call result:
        A list of {"start", "end", "text", "label", "score"} for a text, in the order of the text. A list of texts gives
        a list, a stream an iterator.

    Call errors:
        InputError (a ValueError) if there are no labels or something is not a text, ArgumentTypeError (a TypeError) if
        labels are not texts, EmptyInputError (an IndexError) for [].
    """

    task: ClassVar[str] = "zero-shot-ner"
    accepted_options: ClassVar[tuple[str, ...]] = (
        "labels",
        "candidate_labels",
        "threshold",
        "flat_ner",
        "multi_label",
        "return_class_probs",
    )

    def __init__(
        self,
        model: MLXGLiNER,
        tokenizer: None = None,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        show_progress: bool = False,
        **options: Any,
    ) -> None:
        if tokenizer is not None:
            raise ArgumentTypeError("zero-shot-ner takes no tokenizer, since a GLiNER model has its own. Leave it out.")
        self.gliner = model
        self._batch_size = check_batch_size(batch_size, _BATCH_SIZE)
        self._show_progress = show_progress
        self._preprocess_params, self._postprocess_params = self._split_options(options)

    def __call__(
        self, inputs: Any, *args: Any, num_workers: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """Find the entities of one text, a list of texts or a stream of texts.

        Args:
            inputs: The text or texts.
            args: The labels by position.
            num_workers: Accepted without effect.
            batch_size: Replaces the pipeline's own batch_size for this call.
            options: The options of the call; see the class's docstring.

        Returns:
            A list of entities for a text, a list of lists for a list, an iterator for a stream.

        Raises:
            InputError: If there are no labels, or something is not a text.
        """
        if len(args) > 1 or (args and not {"labels", "candidate_labels"}.isdisjoint(options)):
            raise InputError(
                f"got the positional arguments {args!r:.80} after the texts, expected only the labels. Pass the others "
                "by name."
            )
        given, _ = self._split_options({**options, **({"labels": args[0]} if args else {})})
        given = {**self._preprocess_params, **given}
        if (labels := given.pop("labels", None)) is None:
            raise InputError("zero-shot-ner needs labels, such as labels=['person', 'city']. Pass them.")
        size = check_batch_size(batch_size, self._batch_size)

        def run(texts: list[Any]) -> list[Any]:
            if wrong := next((repr(text) for text in texts if not isinstance(text, str)), None):
                raise InputError(f"got {wrong:.80}, expected a text.")
            return self.gliner.inference(texts, labels, batch_size=size, show_progress=self._show_progress, **given)

        return run_on_inputs(inputs, run, _TEXTS_AT_ONCE, 1 if size == 1 else _TEXTS_AT_ONCE)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        named = options.pop("candidate_labels", None)
        if named is not None:
            options.setdefault("labels", named)
        return options, {}, {}

    @property
    def device(self) -> Any:
        """Return the device of the results, "cpu"."""
        return "cpu"

    @property
    def dtype(self) -> mx.Dtype:
        """Return the dtype of the weights that are not quantized."""
        return self.gliner.loaded.text.loaded.dtype

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the model into a folder from which pipeline() loads it.

        Args:
            save_directory: The folder to write into; created if it does not exist.
            options: Passed on to the model's save_pretrained.
        """
        self.gliner.save_pretrained(save_directory, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.gliner!r})"

    def _split_options(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of inference; labels may be a mapping, which the base class would read as a number."""
        if unknown := [name for name in options if name not in self.accepted_options]:
            known = ", ".join((*self.accepted_options, "batch_size", "num_workers"))
            raise ArgumentTypeError(
                f"{self.task} got {', '.join(unknown)}, which it does not take; it takes {known}. Leave it out."
            )
        return self._sanitize_parameters(**options)[0], {}
