"""Zero-shot classification: texts and labels of the caller's choice become premise and hypothesis of an NLI model.

Reference: transformers/pipelines/zero_shot_classification.py, whose reading of arguments and post-processing this runs;
logits are shifted first, since its softmax overflows to nan from 89 on. T texts, N labels.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.zero_shot_classification as reference
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, TemplateError
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.host_array import as_host_array

logger = logging.getLogger(__name__)

_TEMPLATE = "This example is {}."


@final
class ZeroShotClassificationPipeline(reference.ZeroShotClassificationPipeline):
    """Which of the given labels fits a text; every text with every label goes through the model in shared batches.

    Text -> {"sequence", "labels" best first, "scores"}; list -> list of these; stream -> iterator. The second argument
    or candidate_labels: labels, or a string of them with commas. hypothesis_template: has {} where the label goes.
    multi_label: False shares 1 out among the labels, True judges each by itself. A text too long for the model is cut,
    and a warning logged once. Raises InputError (ValueError) for an empty text or no labels, ArgumentTypeError
    (TypeError) for what is no text or no labels, TemplateError, EmptyInputError for [].
    """

    task: ClassVar[str] = "zero-shot-classification"
    accepted_options: ClassVar[tuple[str, ...]] = (
        "candidate_labels",
        "hypothesis_template",
        "multi_label",
        "truncation",
    )
    length_remedy: ClassVar[str] = "Shorten the label: only texts are cut."
    _args_parser = reference.ZeroShotClassificationArgumentHandler()

    def __init__(self, *parts: Any, **options: Any) -> None:
        Pipeline.__init__(self, *parts, **options)
        if self.entailment_id == -1:
            logger.warning(
                "%s has label2id=%s, in which no label starts with 'entail', so its last class is taken for "
                "entailment. Use a model trained on NLI, or correct label2id in its config.json.",
                self.model.name_or_path,
                dict(self.model.config.label2id),
            )

    def __call__(self, sequences: Any, *args: Any, **options: Any) -> Any:
        if len(args) > 1 or (args and "candidate_labels" in options):
            raise InputError(
                f"got the arguments {args!r} after the texts, expected the labels alone. Pass the others by name."
            )
        return super().__call__(sequences, *args, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if options.get("truncation", True) not in (True, "only_first"):
            raise InputError(
                f"truncation={options['truncation']!r}, and zero-shot-classification always cuts the text so that its "
                "label fits beside it. Leave it out."
            )
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _sequences_per_text(self, before: Mapping[str, Any]) -> int:
        return len(_hypotheses(before))

    def _preprocess_texts(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        texts = [_text(text) for text in texts]
        hypotheses, labels = _hypotheses(before), before["candidate_labels"]
        pairs = [[text, hypothesis] for text in texts for hypothesis in hypotheses]
        cut: set[str] = set()
        sequences = iter(self._tokenize_pairs(pairs, cut))
        self._warn_if_truncated(sum(text in cut for text in texts), len(texts))
        return [[{**next(sequences), "candidate_label": label, "sequence": text} for label in labels] for text in texts]

    def _tokenize_pairs(self, pairs: list[list[str]], cut: set[str]) -> list[Chunk]:
        """Cut by the text alone, noted in `cut`; a pair whose label leaves it no room stays whole, as in theirs."""
        try:
            answer = self.tokenizer(pairs, truncation="only_first")
        except Exception as error:  # the bare class is what tokenizers raises
            if "too short" not in str(error):
                raise
            if len(pairs) > 1:
                return [chunk for pair in pairs for chunk in self._tokenize_pairs([pair], cut)]
            answer = self.tokenizer(pairs)
        cut |= {pairs[row][0] for row, one in enumerate(answer.encodings or ()) if one.overflowing}
        return [
            {name: as_host_array([sequences[row]]) for name, sequences in answer.items()} for row in range(len(pairs))
        ]

    def _postprocess_text(self, outputs: list[Any], after: dict[str, Any]) -> Any:
        return self.postprocess(outputs, **after)

    def postprocess(self, model_outputs: list[Chunk], multi_label: bool = False) -> dict[str, Any]:
        """What was said of a text with each label -> {"sequence", "labels", "scores"}."""
        logits = np.concatenate([output["logits"] for output in model_outputs])  # (N, C)
        entailment = self.entailment_id
        if multi_label or len(logits) == 1:
            contradiction = -1 if entailment == 0 else 0
            highest = logits[:, [contradiction, entailment]].max(axis=1, keepdims=True)
        else:
            highest = logits[:, entailment].max()
        shifted = [
            {**output, "logits": as_host_array(row[None])}
            for output, row in zip(model_outputs, logits - highest, strict=True)
        ]
        answer: dict[str, Any] = super().postprocess(shifted, multi_label)
        return answer


def _hypotheses(before: Mapping[str, Any]) -> list[str]:
    """The labels in their template; ArgumentTypeError, InputError or TemplateError where that cannot be."""
    labels, template = before.get("candidate_labels"), before.get("hypothesis_template", _TEMPLATE)
    if not isinstance(labels, (list, tuple, np.ndarray)):
        raise ArgumentTypeError(
            f"candidate_labels is {labels!r}, expected a list of labels, or a string of them with commas between."
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
    """A text as it is, a list of one text as that text; transformers would drop all but the first of several."""
    if isinstance(given, (list, tuple)) and len(given) == 1:
        given = given[0]
    if isinstance(given, (list, tuple)):
        raise InputError(f"one text is {given!r}, expected a string. Pass several texts as one flat list of strings.")
    if not isinstance(given, str):
        raise ArgumentTypeError(f"one text is of type {type(given).__name__}, expected a string.")
    if not given:
        raise InputError("one text is empty, expected at least one character. Leave it out.")
    return given
