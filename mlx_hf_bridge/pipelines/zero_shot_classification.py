"""The zero-shot-classification pipeline: any labels, scored as hypotheses about a text by an NLI model.

Reference: transformers/pipelines/zero_shot_classification.py, whose argument parsing and post-processing this runs;
logits are shifted first, because its softmax overflows to nan from 89 on. N labels, C classes of the model.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.zero_shot_classification as reference
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, TemplateError
from mlx_hf_bridge.inference.plain_values import plain_list
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.host_array import as_host_array

logger = logging.getLogger(__name__)

_TEMPLATE = "This example is {}."


@final
class ZeroShotClassificationPipeline(reference.ZeroShotClassificationPipeline):
    """Return how well each of the given labels fits a text.

    Every text is paired with every label, and all pairs go through the model in shared batches.

    Args:
        parts: The model and the tokenizer, by position; see Pipeline.
        options: Defaults for the options of a call, and Pipeline's own arguments.

    Call arguments:
        sequences: A text, a list of texts or a stream of texts.
        candidate_labels: A list of labels, or a string of them separated by commas; also by position.
        hypothesis_template: A string with {} where the label goes. Default: "This example is {}.".
        multi_label: False divides a total score of 1 among the labels, True scores each label by itself.
            Default: False.
        batch_size: See Pipeline.

    Call result:
        {"sequence", "labels", "scores"}, labels best first. A list gives a list, a stream an iterator. A text too long
        for the model is truncated, and a warning is logged once.

    Call errors:
        InputError (a ValueError) for an empty text or no labels, ArgumentTypeError (a TypeError) if something is not a
        text or not labels, TemplateError if the template has no {}, EmptyInputError (an IndexError) for [].
    """

    task: ClassVar[str] = "zero-shot-classification"
    accepted_options: ClassVar[tuple[str, ...]] = (
        "candidate_labels",
        "hypothesis_template",
        "multi_label",
        "truncation",
    )
    length_remedy: ClassVar[str] = "Shorten the label: only texts are truncated."
    _args_parser = reference.ZeroShotClassificationArgumentHandler()

    def __init__(self, *parts: Any, **options: Any) -> None:
        Pipeline.__init__(self, *parts, **options)
        if self.entailment_id == -1:
            logger.warning(
                "%s has label2id=%s, where no label starts with 'entail', so its last class is used as "
                "entailment. Use a model trained on NLI, or correct label2id in its config.json.",
                self.model.name_or_path,
                dict(self.model.config.label2id),
            )

    def __call__(self, sequences: Any, *args: Any, **options: Any) -> Any:
        """Classify one text, a list of texts or a stream of texts.

        Args:
            sequences: The text or texts.
            args: candidate_labels by position.
            options: candidate_labels, hypothesis_template, multi_label, batch_size.

        Returns:
            {"sequence", "labels", "scores"} for a text, a list of these for a list, an iterator for a stream.

        Raises:
            InputError: If there are other positional arguments.
        """
        if len(args) > 1 or (args and "candidate_labels" in options):
            raise InputError(
                f"got the positional arguments {args!r} after the texts, expected only the labels. Pass the "
                "others by name."
            )
        return super().__call__(sequences, *args, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if options.get("truncation", True) not in (True, "only_first"):
            raise InputError(
                f"truncation={options['truncation']!r}, and zero-shot-classification always truncates the text so "
                "that its label fits too. Leave it out."
            )
        if "candidate_labels" in options:
            options["candidate_labels"] = plain_list(options["candidate_labels"])
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _sequences_per_text(self, preprocess_params: Mapping[str, Any]) -> int:
        return len(_hypotheses(preprocess_params))

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        texts = [_text(text) for text in texts]
        hypotheses, labels = _hypotheses(preprocess_params), preprocess_params["candidate_labels"]
        pairs = [[text, hypothesis] for text in texts for hypothesis in hypotheses]
        truncated: set[str] = set()
        sequences = iter(self._tokenize_pairs(pairs, truncated))
        self._warn_if_truncated(sum(text in truncated for text in texts), len(texts))
        return [[{**next(sequences), "candidate_label": label, "sequence": text} for label in labels] for text in texts]

    def _tokenize_pairs(self, pairs: list[list[str]], truncated: set[str]) -> list[Chunk]:
        """Tokenize pairs, truncating only the text; adds the truncated texts to `truncated`.

        A pair whose label alone is too long is not truncated, as in transformers.
        """
        try:
            encoding = self.tokenizer(pairs, truncation="only_first")
        except Exception as error:  # tokenizers raises the bare class
            if "too short" not in str(error):
                raise
            # One pair that cannot be truncated fails the whole call, so they are tried one by one.
            if len(pairs) > 1:
                return [chunk for pair in pairs for chunk in self._tokenize_pairs([pair], truncated)]
            # Too long even without its text: the length check reports it with advice.
            encoding = self.tokenizer(pairs)
        truncated |= {pairs[row][0] for row, one in enumerate(encoding.encodings or ()) if one.overflowing}
        return [{name: as_host_array([rows[row]]) for name, rows in encoding.items()} for row in range(len(pairs))]

    def _postprocess_text(self, outputs: list[Any], postprocess_params: dict[str, Any]) -> Any:
        return self.postprocess(outputs, **postprocess_params)

    def postprocess(self, model_outputs: list[Chunk], multi_label: bool = False) -> dict[str, Any]:
        """Score the labels of one text.

        Args:
            model_outputs: One dict for each label, with "logits" (1, C).
            multi_label: Whether each label is scored by itself.

        Returns:
            {"sequence", "labels", "scores"}, best label first.
        """
        logits = np.concatenate([output["logits"] for output in model_outputs])  # (N, C)
        entailment = self.entailment_id
        # softmax(x) = softmax(x - c): subtracting the largest of what is compared keeps exp from overflowing.
        if multi_label or len(logits) == 1:
            contradiction = -1 if entailment == 0 else 0
            highest = logits[:, [contradiction, entailment]].max(axis=1, keepdims=True)
        else:
            highest = logits[:, entailment].max()
        shifted = [
            {**output, "logits": as_host_array(row[None])}
            for output, row in zip(model_outputs, logits - highest, strict=True)
        ]
        result: dict[str, Any] = super().postprocess(shifted, multi_label)
        return result


def _hypotheses(preprocess_params: Mapping[str, Any]) -> list[str]:
    """Return the labels put into the template; ArgumentTypeError, InputError or TemplateError if that fails."""
    labels, template = (
        preprocess_params.get("candidate_labels"),
        preprocess_params.get("hypothesis_template", _TEMPLATE),
    )
    if not isinstance(labels, list):
        raise ArgumentTypeError(
            f"candidate_labels is {labels!r}, expected a list of labels, or a string of labels separated by commas."
        )
    if len(labels) == 0:
        raise InputError("candidate_labels has no label, expected at least one.")
    if not isinstance(template, str):
        raise TemplateError(f"hypothesis_template={template!r}, expected a string like 'This example is {{}}.'.")
    try:
        hypotheses = [template.format(label) for label in labels]
    except (LookupError, ValueError) as error:
        raise TemplateError(
            f"hypothesis_template={template!r} cannot be filled in ({error}). Put {{}} once, where the label goes."
        ) from error
    if hypotheses[0] == template:
        raise TemplateError(
            f"hypothesis_template={template!r} has no place for the label. Put {{}} there: 'This example is {{}}.'."
        )
    return hypotheses


def _text(given: Any) -> str:
    """Return a text, or the text of a list of one; transformers would drop all but the first of several."""
    if isinstance(given, (list, tuple)) and len(given) == 1:
        given = given[0]
    if isinstance(given, (list, tuple)):
        raise InputError(f"one text is {given!r}, expected a string. Pass several texts as one flat list of strings.")
    if not isinstance(given, str):
        raise ArgumentTypeError(f"one text is of type {type(given).__name__}, expected a string.")
    if not given:
        raise InputError("one text is empty, expected at least one character. Leave it out.")
    return given
