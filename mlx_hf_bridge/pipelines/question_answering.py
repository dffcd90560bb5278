"""Question answering: the passage of a context that answers a question, long contexts read in windows.

transformers 5 has no such pipeline; reference: transformers 4.57, transformers/pipelines/question_answering.py.
L tokens.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, final

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pipelines.answer_spans import best_spans
from mlx_hf_bridge.pipelines.base import Chunk, ChunkPipeline, PerTokenMixin
from mlx_hf_bridge.pipelines.host_array import as_host_array

Answer = dict[str, Any]

_PARTS = ("question", "context")
_BEFORE = ("doc_stride", "max_seq_len")
_AFTER = ("top_k", "max_answer_len", "handle_impossible_answer", "align_to_words")
_WITHOUT_EFFECT = ("padding", "max_question_len")
# The longest window, and the most that windows have in common, that transformers takes by itself.
_WINDOW, _STRIDE = 384, 128


@final
class QuestionAnsweringPipeline(PerTokenMixin, ChunkPipeline):
    """The passage of a context that answers a question.

    question and context, texts or lists (one context serves several questions), or {"question", "context"}, a list or a
    stream of these -> {"score", "start", "end", "answer"}, with top_k above 1 a list of them, best first; several
    questions -> a list. start and end: places in the context.
    doc_stride: how many tokens the windows of a long context have in common; max_seq_len: tokens of a window, question
    and all; max_answer_len: most tokens of an answer; handle_impossible_answer: "" may be the answer; align_to_words:
    answers are whole words. padding and max_question_len are taken and change nothing, as in transformers.
    Raises InputError (ValueError) for what is no question with a context and for impossible numbers, UnknownNameError
    (KeyError) for a dict without one of the two.
    """

    task: ClassVar[str] = "question-answering"
    accepted_options: ClassVar[tuple[str, ...]] = (*_AFTER, *_BEFORE, *_WITHOUT_EFFECT)
    length_remedy: ClassVar[str] = "Leave max_seq_len out, or make it smaller."
    sequences_at_once: ClassVar[int] = 1024

    def __call__(self, *examples: Any, question: Any = None, context: Any = None, **options: Any) -> Any:
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
                raise ArgumentTypeError(f"{name}={value!r}, expected a whole number.")
            if value < least:
                raise InputError(f"{name}={value}, expected {least} or more.")
        before = {name: given[name] for name in _BEFORE if name in given}
        return before, {}, {name: given[name] for name in _AFTER if name in given}

    def preprocess(self, inputs: Any, doc_stride: int | None = None, max_seq_len: int | None = None) -> list[Chunk]:
        """A question with its context -> one part a window."""
        example, tokenizer = _example(inputs), self.tokenizer
        limit = min(tokenizer.model_max_length, self.model.loaded.config.max_length)
        window = min(limit, _WINDOW) if max_seq_len is None else max_seq_len
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
            raise InputError("the tokenizer is written in Python and knows no places in a text. Use a fast one.")
        return [self._window(example, encoding, int(question_first)) for encoding in encodings]

    def postprocess(
        self,
        model_outputs: list[Chunk],
        top_k: int = 1,
        handle_impossible_answer: bool = False,
        max_answer_len: int = 15,
        align_to_words: bool = True,
    ) -> Answer | list[Answer]:
        """What was said of a context's windows -> its best answers; equal ones are one, their scores summed."""
        answers: dict[str, Answer] = {}
        null = np.inf
        # Some spans turn out to be equal once they are whole words.
        count = top_k * 2 + 10 if align_to_words else top_k
        for window in model_outputs:
            spans = best_spans(np.asarray(window["logits"][0]), window["allowed"], count, max_answer_len)
            null = min(null, spans.null)
            for start, end, score in zip(spans.starts, spans.ends, spans.scores, strict=True):
                _add(answers, window, *_places(window, int(start), int(end), align_to_words), float(score))
        found = list(answers.values())
        if handle_impossible_answer:
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
        best = sorted(found, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return best[0] if len(best) == 1 else best

    def _stride(self, question: str, window: int, asked: int | None) -> int:
        """What windows have in common, less than the question leaves of a window (or tokenizers would abort)."""
        special = self.tokenizer.num_special_tokens_to_add(True)
        room = window - special - len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        if room < 1:
            raise InputError(
                f"the question and special tokens have {window - room} tokens, and a window has {window}, so that "
                "nothing of the context fits. Shorten the question."
            )
        if asked is None:
            usual = min(window // 2, _STRIDE)
            return usual if usual < room else room // 2
        if asked >= room:
            raise InputError(
                f"doc_stride={asked}, and beside the question a window of {window} tokens has room for {room} of the "
                "context. Make it smaller, or shorten the question."
            )
        return asked

    def _window(self, example: Mapping[str, str], encoding: Any, sequence: int) -> Chunk:
        ids = np.array(encoding.ids)
        inside = np.array([one == sequence for one in encoding.sequence_ids])
        cls = self.tokenizer.cls_token_id
        return {
            "input_ids": as_host_array(ids[None]),
            "token_type_ids": as_host_array([encoding.type_ids]),
            "context": example["context"],
            "encoding": encoding,
            "sequence": sequence,
            # The first token's share is that of "no answer".
            "allowed": inside if cls is None else inside | (ids == cls),
        }

    def _call_model(self, batch: TokenBatch) -> mx.array:
        answers = self.model.loaded.model(batch).outputs
        return mx.stack([answers["start_logits"], answers["end_logits"]], axis=-1)  # (B, L, 2)


def _examples(examples: tuple[Any, ...], question: Any, context: Any) -> Any:
    """A call's arguments -> a list of examples, or a stream."""
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
    questions = [question] if isinstance(question, str) else question
    contexts = [context] * len(questions) if isinstance(context, str) else context
    if not isinstance(questions, list) or not isinstance(contexts, list):
        raise InputError(
            f"got question={question!r:.80} and context={context!r:.80}, expected texts, or lists of them."
        )
    if len(questions) != len(contexts):
        raise InputError(
            f"got {len(questions)} questions and {len(contexts)} contexts, expected as many, or 1 context."
        )
    return [{"question": one, "context": other} for one, other in zip(questions, contexts, strict=True)]


def _example(given: Any) -> dict[str, str]:
    """One question with its context, checked."""
    if not isinstance(given, Mapping):
        raise InputError(f'one input is {given!r:.80}, expected {{"question": ..., "context": ...}}.')
    for part in _PARTS:
        if part not in given:
            raise UnknownNameError(f"{part!r} is missing in {given!r:.80}, expected question and context.")
        if not isinstance(given[part], str) or not given[part]:
            raise InputError(f"{part} is {given[part]!r:.80}, expected a text of one character or more.")
    return {part: given[part] for part in _PARTS}


def _places(window: Chunk, start: int, end: int, align_to_words: bool) -> tuple[int, int]:
    """Tokens -> characters of the context, those of whole words where the tokenizer knows words."""
    encoding, sequence = window["encoding"], window["sequence"]
    if align_to_words:
        words = [encoding.token_to_word(place) for place in (start, end)]
        spans = [None if word is None else encoding.word_to_chars(word, sequence) for word in words]
        if spans[0] is not None and spans[1] is not None:
            return spans[0][0], spans[1][1]
    return encoding.offsets[start][0], encoding.offsets[end][1]


def _add(answers: dict[str, Answer], window: Chunk, start: int, end: int, score: float) -> None:
    text = window["context"][start:end]
    known = answers.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
    known["score"] += score
