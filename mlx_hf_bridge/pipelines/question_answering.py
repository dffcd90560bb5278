"""The question-answering pipeline: the span of a context that answers a question; long contexts are read in windows.

transformers 5 has no such pipeline; reference: transformers 4.57, transformers/pipelines/question_answering.py.
B windows, L tokens.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, final

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.inference.plain_values import plain_list
from mlx_hf_bridge.inference.tokenizer import TOKEN_TYPE_IDS
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pipelines.answer_spans import best_spans
from mlx_hf_bridge.pipelines.base import Chunk, ChunkPipeline, PerTokenMixin
from mlx_hf_bridge.pipelines.host_array import as_host_array
from mlx_hf_bridge.pipelines.tokenizer import loses_token_types

Answer = dict[str, Any]

_PARTS = ("question", "context")
_PREPROCESS_OPTIONS = ("doc_stride", "max_seq_len")
_POSTPROCESS_OPTIONS = ("top_k", "max_answer_len", "handle_impossible_answer", "align_to_words")
# Accepted because transformers accepts them; they change nothing there either.
_NO_EFFECT = ("padding", "max_question_len")
# Default window length and overlap, transformers' values.
_WINDOW, _STRIDE = 384, 128


@final
class QuestionAnsweringPipeline(PerTokenMixin, ChunkPipeline):
    """Return the span of a context that answers a question.

    Call arguments:
        question, context: Texts, or lists of texts; one context can serve several questions. Or, by position,
            {"question": ..., "context": ...}, or a list or stream of such dicts.
        top_k: How many answers to return, best first. Default: 1.
        doc_stride: How many tokens neighboring windows of a long context have in common. Default: up to 128.
        max_seq_len: Tokens of a window, question included. Default: 384 or the model's limit.
        max_answer_len: The most tokens of an answer. Default: 15.
        handle_impossible_answer: Whether "" (no answer in the context) can be the result. Default: False.
        align_to_words: Whether answers are extended to whole words. Default: True.
        padding, max_question_len: Accepted without effect, as in transformers.
        batch_size: See Pipeline.

    Call result:
        {"score", "start", "end", "answer"}, where start and end are character positions in the context; with top_k
        above 1 a list of these. Several questions give a list, a stream gives an iterator.

    Call errors:
        InputError (a ValueError) if an input has no question or no context, or a number is out of range;
        UnknownNameError (a KeyError) for a dict without one of the two.
    """

    task: ClassVar[str] = "question-answering"
    accepted_options: ClassVar[tuple[str, ...]] = (*_POSTPROCESS_OPTIONS, *_PREPROCESS_OPTIONS, *_NO_EFFECT)
    length_remedy: ClassVar[str] = "Leave max_seq_len out, or make it smaller."
    sequences_at_once: ClassVar[int] = 1024

    def __call__(self, *examples: Any, question: Any = None, context: Any = None, **options: Any) -> Any:
        """Answer one or several questions.

        Args:
            examples: {"question", "context"} dicts, a list or stream of these, or question and context by position.
            question: A question or a list of questions.
            context: Their context, or a list with one context for each question.
            options: top_k, doc_stride and the others of the class's docstring.

        Returns:
            {"score", "start", "end", "answer"} for one question (with top_k above 1 a list of these), a list for
            several questions, an iterator for a stream.
        """
        inputs = _examples(examples, question, context)
        if isinstance(inputs, list):
            inputs = [_example(one) for one in inputs]
            # transformers unwraps a list of one.
            inputs = inputs[0] if len(inputs) == 1 else inputs
        return super().__call__(inputs, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {name: value for name, value in options.items() if value is not None}
        for name, least in (("top_k", 1), ("max_answer_len", 1), ("doc_stride", 0), ("max_seq_len", 1)):
            value = given.get(name, least)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ArgumentTypeError(f"{name}={value!r}, expected an integer.")
            if value < least:
                raise InputError(f"{name}={value}, expected {least} or more.")
        preprocess_params = {name: given[name] for name in _PREPROCESS_OPTIONS if name in given}
        return preprocess_params, {}, {name: given[name] for name in _POSTPROCESS_OPTIONS if name in given}

    def preprocess(self, inputs: Any, doc_stride: int | None = None, max_seq_len: int | None = None) -> list[Chunk]:
        """Tokenize a question and its context into one or more windows.

        Args:
            inputs: {"question": ..., "context": ...}.
            doc_stride: How many tokens neighboring windows have in common.
            max_seq_len: Tokens of a window.

        Returns:
            One dict for each window.

        Raises:
            InputError: If the tokenizer is not a fast one.
        """
        example, tokenizer = _example(inputs), self.tokenizer
        limit = min(tokenizer.model_max_length, self.model.loaded.config.max_length)
        window = min(limit, _WINDOW) if max_seq_len is None else max_seq_len
        # transformers' rule: models padded on the left read the context first.
        question_first = tokenizer.padding_side == "right"
        texts = [example[part] for part in (_PARTS if question_first else _PARTS[::-1])]
        encodings = tokenizer(
            *texts,
            truncation="only_second" if question_first else "only_first",
            max_length=window,
            stride=self._stride(example["question"], window, doc_stride),
            return_overflowing_tokens=True,
        ).encodings
        if encodings is None:
            raise InputError("the tokenizer is written in Python and gives no character offsets. Use a fast tokenizer.")
        return [self._window(example, encoding, int(question_first)) for encoding in encodings]

    def _input_names(self) -> list[str]:
        """Return the inputs of transformers 4.57, which gave token type ids to more models than transformers 5."""
        added = [TOKEN_TYPE_IDS] if loses_token_types(self.tokenizer, self.model.loaded) else []
        return [*self.tokenizer.model_input_names, *added]

    def postprocess(
        self,
        model_outputs: list[Chunk],
        top_k: int = 1,
        handle_impossible_answer: bool = False,
        max_answer_len: int = 15,
        align_to_words: bool = True,
    ) -> Answer | list[Answer]:
        """Merge the answers of a context's windows; equal answers become one with the sum of their scores.

        Args:
            model_outputs: The windows with their "logits", (1, L, 2).
            top_k: How many answers to return.
            handle_impossible_answer: Whether "" can be an answer.
            max_answer_len: The most tokens of an answer.
            align_to_words: Whether answers are extended to whole words.

        Returns:
            The best answer; with top_k above 1 a list of answers, best first.
        """
        answers: dict[str, Answer] = {}
        null = np.inf
        # Different spans can become equal once they are extended to whole words, so more are looked at.
        count = top_k * 2 + 10 if align_to_words else top_k
        for window in model_outputs:
            spans = best_spans(np.asarray(window["logits"][0]), window["allowed"], count, max_answer_len)
            # The least of all windows: one window with an answer is enough.
            null = min(null, spans.null)
            for start, end, score in zip(spans.starts, spans.ends, spans.scores, strict=True):
                _add(answers, window, *_characters(window, int(start), int(end), align_to_words), float(score))
        found = list(answers.values())
        if handle_impossible_answer:
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
        best = sorted(found, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return best[0] if len(best) == 1 else best

    def _stride(self, question: str, window: int, given: int | None) -> int:
        """Return the overlap of windows; it must be less than what the question leaves, or tokenizers would abort."""
        special = self.tokenizer.num_special_tokens_to_add(True)
        room = window - special - len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        if room < 1:
            raise InputError(
                f"the question and special tokens have {window - room} tokens, and a window has {window}, so that "
                "nothing of the context fits. Shorten the question."
            )
        if given is None:
            default = min(window // 2, _STRIDE)
            return default if default < room else room // 2
        if given >= room:
            raise InputError(
                f"doc_stride={given}, and next to the question a window of {window} tokens has room for {room} of the "
                "context. Make it smaller, or shorten the question."
            )
        return given

    def _window(self, example: Mapping[str, str], encoding: Any, sequence: int) -> Chunk:
        """Return one window; `sequence` is the context's number in the pair, 0 or 1."""
        ids = np.array(encoding.ids)
        inside = np.array([one == sequence for one in encoding.sequence_ids])
        cls = self.tokenizer.cls_token_id
        return {
            "input_ids": as_host_array(ids[None]),
            "token_type_ids": as_host_array([encoding.type_ids]),
            "context": example["context"],
            "encoding": encoding,
            "sequence": sequence,
            # The CLS token's probability is that of "no answer".
            "allowed": inside if cls is None else inside | (ids == cls),
        }

    def _call_model(self, batch: TokenBatch) -> mx.array:
        outputs = self.model.loaded.model(batch).outputs
        return mx.stack([outputs["start_logits"], outputs["end_logits"]], axis=-1)  # (B, L, 2)


def _examples(examples: tuple[Any, ...], question: Any, context: Any) -> Any:
    """Return the examples of a call, a list or a stream."""
    if len(examples) == 1 and question is None and context is None:
        return [examples[0]] if isinstance(examples[0], Mapping) else examples[0]
    if len(examples) == 2 and all(isinstance(one, str) for one in examples):
        question, context = examples
    elif examples:
        return list(examples)
    if question is None or context is None:
        raise InputError(
            f"got question={question!r:.80} and context={context!r:.80}, expected both. Pass them by name."
        )
    questions = [question] if isinstance(question, str) else plain_list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else plain_list(context)
    if not isinstance(questions, list) or not isinstance(contexts, list):
        raise InputError(
            f"got question={question!r:.80} and context={context!r:.80}, expected strings, or lists of strings."
        )
    if len(questions) != len(contexts):
        raise InputError(
            f"got {len(questions)} questions and {len(contexts)} contexts, expected one context or as many."
        )
    return [{"question": one, "context": other} for one, other in zip(questions, contexts, strict=True)]


def _example(given: Any) -> dict[str, str]:
    """Return one question with its context, checked."""
    if not isinstance(given, Mapping):
        raise InputError(f'one input is {given!r:.80}, expected {{"question": ..., "context": ...}}.')
    for part in _PARTS:
        if part not in given:
            raise UnknownNameError(f"{part!r} is missing in {given!r:.80}, expected question and context.")
        if not isinstance(given[part], str) or not given[part]:
            raise InputError(f"{part} is {given[part]!r:.80}, expected a string of at least one character.")
    return {part: given[part] for part in _PARTS}


def _characters(window: Chunk, start: int, end: int, align_to_words: bool) -> tuple[int, int]:
    """Return the character span of a token span, of whole words if the tokenizer knows words."""
    encoding, sequence = window["encoding"], window["sequence"]
    if align_to_words:
        words = [encoding.token_to_word(token) for token in (start, end)]
        spans = [None if word is None else encoding.word_to_chars(word, sequence) for word in words]
        if spans[0] is not None and spans[1] is not None:
            return spans[0][0], spans[1][1]
    return encoding.offsets[start][0], encoding.offsets[end][1]


def _add(answers: dict[str, Answer], window: Chunk, start: int, end: int, score: float) -> None:
    """Add an answer, or its score to an equal answer (ignoring case)."""
    text = window["context"][start:end]
    known = answers.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
    known["score"] += score
