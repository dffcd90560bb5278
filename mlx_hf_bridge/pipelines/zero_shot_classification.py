"""Zero-shot classification: texts and labels of the caller's choice become premise and hypothesis of an NLI model.

Reference: transformers/pipelines/zero_shot_classification.py. The softmax subtracts the maximum, where the reference
overflows to nan from logits of 89 on. T texts, N labels, C classes.
"""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError, TemplateError
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens
from mlx_hf_bridge.pipelines.classifier import Options, Pipeline, answered, changed, softmax
from mlx_hf_bridge.pretrained import MLXPreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZeroShotOptions(Options):
    """truncation: True is all there is, since the text is always cut to make room for its label."""

    candidate_labels: Any = None
    hypothesis_template: Any = "This example is {}."
    multi_label: bool = False
    truncation: bool | str = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truncation not in (True, "only_first"):
            raise InputError(
                f"truncation={self.truncation!r}, and zero-shot-classification always cuts the text so that its label "
                "fits beside it. Leave it out."
            )


@final
class ZeroShotClassificationPipeline(Pipeline):
    """Which of the given labels fits a text; every text with every label goes through the model in shared batches."""

    task: ClassVar[str] = "zero-shot-classification"

    def __init__(
        self, model: MLXPreTrainedModel, tokenizer: Tokenizer, show_progress: bool = False, **defaults: Any
    ) -> None:
        super().__init__(model, tokenizer, show_progress)
        self._defaults = changed(ZeroShotOptions(), defaults, self.task)
        self._limit = min(self.tokenizer.model_max_length or self._max_length, self._max_length)
        self._told = False
        if self.entailment_id == -1:
            logger.warning(
                "%s has label2id=%s, in which no label starts with 'entail', so its last class is taken for "
                "entailment. Use a model trained on NLI, or correct label2id in its config.json.",
                model.name_or_path,
                dict(model.config.label2id),
            )

    @property
    def entailment_id(self) -> int:
        """The class of the first label that starts with "entail", in any case; -1 where there is none."""
        labels = self.model.config.label2id.items()
        return next((int(number) for label, number in labels if label.lower().startswith("entail")), -1)

    def __call__(self, sequences: Any, *args: Any, **options: Any) -> Any:
        """Text -> {"sequence", "labels" best first, "scores"}; a list -> a list of these; a stream -> an iterator.

        The second argument or candidate_labels: labels, or a string of them with commas. hypothesis_template: has {}
        where the label goes. multi_label: False shares 1 out among the labels, True judges each by itself. A text too
        long for the model is cut, and a warning logged once. Raises InputError (ValueError) for an empty text or no
        labels, ArgumentTypeError (TypeError) for what is no text or no labels, TemplateError, EmptyInputError for [].
        """
        if len(args) > 1 or (args and "candidate_labels" in options):
            raise InputError(
                f"got the arguments {args!r} after the texts, expected the labels alone. Pass the others by name."
            )
        if args:
            options["candidate_labels"] = args[0]
        asked = changed(self._defaults, options, self.task)
        labels = _labels(asked.candidate_labels)
        hypotheses = _hypotheses(asked.hypothesis_template, labels)

        def answer(texts: list[Any]) -> list[dict[str, Any]]:
            checked = [_text(text) for text in texts]
            logits = self._entailments(checked, hypotheses, asked.batch_size)
            scores = self._scores(logits, asked.multi_label)
            return [_ranked(text, labels, row) for text, row in zip(checked, scores, strict=True)]

        return answered(sequences, answer, asked, len(labels))

    def _entailments(self, texts: list[str], hypotheses: list[str], batch_size: int) -> np.ndarray:
        """T texts x N hypotheses -> logits (T, N, C). Equal pairs are computed once, so that they tie exactly."""
        pairs = [(text, hypothesis) for text in texts for hypothesis in hypotheses]
        rows = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
        tokens = self._encode(list(rows))
        self._report_cut({text for (text, _), one in zip(rows, tokens, strict=True) if one.cut}, texts)
        logits = self._logits(tokens, batch_size, "Shorten the label: only texts are cut.")
        return logits[[rows[pair] for pair in pairs]].reshape(len(texts), len(hypotheses), -1)

    def _encode(self, pairs: list[tuple[str, str]]) -> list[Tokens]:
        """Cut by the text alone; a pair whose label leaves it no room stays whole, as in the reference."""
        try:
            return self.tokenizer.encode([*pairs], self._limit, "only_first")
        except InputError:
            if len(pairs) == 1:
                return self.tokenizer.encode([*pairs])
            return [one for pair in pairs for one in self._encode([pair])]

    def _report_cut(self, cut: set[str], texts: list[str]) -> None:
        if cut and not self._told:
            self._told = True
            logger.warning(
                "%d of %d texts have, with a label, more than %d tokens and were truncated; further ones will be too, "
                "without a word. Split them to have every part read.",
                sum(text in cut for text in texts),
                len(texts),
                self._limit,
            )

    def _scores(self, logits: np.ndarray, multi_label: bool) -> np.ndarray:
        """logits (T, N, C) -> (T, N): entailment against contradiction for each label, or shared among the labels."""
        entailment = self.entailment_id
        if multi_label or logits.shape[1] == 1:
            contradiction = -1 if entailment == 0 else 0
            return softmax(logits[..., [contradiction, entailment]])[..., 1]
        return softmax(logits[..., entailment])


def _labels(given: Any) -> list[Any]:
    if isinstance(given, str):
        given = [label.strip() for label in given.split(",") if label.strip()]
    if not isinstance(given, (list, tuple, np.ndarray)):
        raise ArgumentTypeError(
            f"candidate_labels is {given!r}, expected a list of labels, or a string of them with commas between."
        )
    if len(given) == 0:
        raise InputError("candidate_labels has no label, expected at least one.")
    return list(given)


def _hypotheses(template: Any, labels: list[Any]) -> list[str]:
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
    """A text as it is, a list of one text as that text; the reference would drop all but the first of several."""
    if isinstance(given, (list, tuple)) and len(given) == 1:
        given = given[0]
    if isinstance(given, (list, tuple)):
        raise InputError(f"one text is {given!r}, expected a string. Pass several texts as one flat list of strings.")
    if not isinstance(given, str):
        raise ArgumentTypeError(f"one text is of type {type(given).__name__}, expected a string.")
    if not given:
        raise InputError("one text is empty, expected at least one character. Leave it out.")
    return given


def _ranked(text: str, labels: list[Any], scores: np.ndarray) -> dict[str, Any]:
    """Best first; ties in the reference's order, which reverses an ascending sort."""
    order = scores.argsort()[::-1]
    return {"sequence": text, "labels": [labels[index] for index in order], "scores": scores[order].tolist()}
