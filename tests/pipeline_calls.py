"""Valid and invalid pipeline calls by task, for pipelines of mlx_hf_bridge and of transformers alike.

This module does not import torch, so that a process without torch can use it.
"""

import importlib
from collections.abc import Callable
from typing import Any

Call = Callable[[Any], Any]

ZERO_SHOT, TEXT = "zero-shot-classification", "text-classification"
NER, FILL, FEATURES = "token-classification", "fill-mask", "feature-extraction"
TEXTS = ["the cat sat on the mat.", "a stock market rose today!", "i love this film", "bad news"]
LABELS = ["cat", "stock market", "good film", "sport", "bad news"]
LONG = "the cat sat on the mats, a dog is bad. " * 9
WORDS = ["the", "cats", "sat", "on"]

ZERO_SHOT_CALLS: dict[str, Call] = {
    "a text": lambda pipe: pipe(TEXTS[0], LABELS),
    "by keyword": lambda pipe: pipe(sequences=TEXTS[0], candidate_labels=LABELS),
    "a list of texts": lambda pipe: pipe(TEXTS, LABELS),
    "a list of one": lambda pipe: pipe(TEXTS[:1], LABELS),
    "a nested list of one": lambda pipe: pipe([TEXTS[:1]], LABELS),
    "labels in a string": lambda pipe: pipe(TEXTS, "cat, stock market ,, good film,"),
    "labels in a tuple": lambda pipe: pipe(TEXTS, tuple(LABELS)),
    "labels that are no strings": lambda pipe: pipe(TEXTS[0], [1, 2, "cat"]),
    "labels with blanks stay": lambda pipe: pipe(TEXTS[0], [" cat ", "a,b", ""]),
    "one label": lambda pipe: pipe(TEXTS, ["cat"]),
    "one label in a string": lambda pipe: pipe(TEXTS[0], "cat"),
    "one label and multi_label": lambda pipe: pipe(TEXTS[0], "cat", multi_label=True),
    "multi_label": lambda pipe: pipe(TEXTS, LABELS, multi_label=True),
    "not multi_label": lambda pipe: pipe(TEXTS, LABELS, multi_label=False),
    "a template": lambda pipe: pipe(TEXTS, LABELS, hypothesis_template="i love {}!"),
    "a template of the label": lambda pipe: pipe(TEXTS, LABELS, hypothesis_template="{}"),
    "a template with two places of it": lambda pipe: pipe(TEXTS, LABELS, hypothesis_template="{0} is {0}"),
    "equal labels tie in reverse": lambda pipe: pipe(TEXTS, ["cat", "dog", "cat", "dog", "cat"]),
    "equal labels and multi_label": lambda pipe: pipe(TEXTS, ["cat", "dog", "cat"], multi_label=True),
    "equal texts": lambda pipe: pipe([TEXTS[0]] * 3, LABELS),
    "texts cut at the limit": lambda pipe: pipe([LONG, "cat", LONG], LABELS, batch_size=2),
    "texts cut and multi_label": lambda pipe: pipe(LONG, LABELS, multi_label=True),
    "more than 16 labels": lambda pipe: pipe(TEXTS[0], [f"{one} {two}" for one in "abcde" for two in "fghij"]),
    "a generator": lambda pipe: list(pipe((text for text in TEXTS), LABELS)),
    "an empty generator": lambda pipe: pipe((text for text in []), LABELS),
    "a space": lambda pipe: pipe(" ", LABELS),
}
TEXT_CALLS: dict[str, Call] = {
    "a text": lambda pipe: pipe(TEXTS[0]),
    "by keyword": lambda pipe: pipe(inputs=TEXTS[0]),
    "an empty text": lambda pipe: pipe(""),
    "a list of texts": lambda pipe: pipe(TEXTS),
    "a list of one": lambda pipe: pipe(TEXTS[:1]),
    "a pair": lambda pipe: pipe({"text": TEXTS[0], "text_pair": TEXTS[1]}),
    "a dict without pair": lambda pipe: pipe({"text": TEXTS[0]}),
    "a pair with nothing": lambda pipe: pipe(
        [{"text": "a", "text_pair": ""}, {"text": "a", "text_pair": None}], top_k=None
    ),
    "texts and pairs": lambda pipe: pipe([TEXTS[0], {"text": TEXTS[0], "text_pair": TEXTS[1]}, TEXTS[2]]),
    "a pair in the old form": lambda pipe: pipe([[[TEXTS[0], TEXTS[1]]]]),
    "top_k 1": lambda pipe: pipe(TEXTS[0], top_k=1),
    "top_k 2": lambda pipe: pipe(TEXTS[0], top_k=2),
    "top_k 0": lambda pipe: pipe(TEXTS[0], top_k=0),
    "top_k beyond the labels": lambda pipe: pipe(TEXTS, top_k=9),
    "top_k -1": lambda pipe: pipe(TEXTS, top_k=-1),
    "top_k None": lambda pipe: pipe(TEXTS[0], top_k=None),
    "top_k None, a list": lambda pipe: pipe(TEXTS, top_k=None),
    "top_k None, a pair": lambda pipe: pipe({"text": TEXTS[0], "text_pair": TEXTS[1]}, top_k=None),
    "sigmoid": lambda pipe: pipe(TEXTS, function_to_apply="sigmoid", top_k=None),
    "softmax": lambda pipe: pipe(TEXTS, function_to_apply="SoftMax", top_k=None),
    "none": lambda pipe: pipe(TEXTS, function_to_apply="none", top_k=1),
    "no function named": lambda pipe: pipe(TEXTS, function_to_apply=None),
    "truncation": lambda pipe: pipe([LONG, "cat"], truncation=True, top_k=None),
    "truncation of pairs": lambda pipe: pipe({"text": LONG, "text_pair": LONG}, truncation=True),
    "truncation only_first": lambda pipe: pipe({"text": LONG, "text_pair": "a cat"}, truncation="only_first"),
    "truncation only_second": lambda pipe: pipe({"text": "a cat", "text_pair": LONG}, truncation="only_second"),
    "truncation to max_length": lambda pipe: pipe([LONG, "cat"], truncation=True, max_length=7),
    "max_length alone": lambda pipe: pipe(LONG, max_length=9),
    "max_length and no truncation": lambda pipe: pipe(TEXTS[0], max_length=4, truncation=False),
    "max_length beside padding": lambda pipe: pipe(TEXTS[0], max_length=4, padding="max_length"),
    "do_not_truncate": lambda pipe: pipe(TEXTS[0], max_length=4, truncation="do_not_truncate"),
    "no special tokens": lambda pipe: pipe(TEXTS, add_special_tokens=False, top_k=None),
    "padding": lambda pipe: pipe(TEXTS, padding=True, truncation=True, batch_size=2, num_workers=0),
    "a generator": lambda pipe: list(pipe(text for text in TEXTS)),
    "a generator with top_k": lambda pipe: list(pipe((text for text in TEXTS), top_k=2)),
    "an empty generator": lambda pipe: pipe(text for text in []),
}


def masked(pipe: Any, *texts: str) -> list[str]:
    """Return the texts with each _ replaced by the tokenizer's mask token."""
    return [text.replace("_", pipe.tokenizer.mask_token) for text in texts]


def aggregations() -> Any:
    """Return the AggregationStrategy enum, whose members are equal to their strings."""
    module = importlib.import_module("mlx_hf_bridge.pipelines.transformers_tasks.pipelines.token_classification")
    return module.AggregationStrategy


def filled(*texts: str, **options: Any) -> Call:
    """Return a fill-mask call with a list of texts."""
    return lambda pipe: pipe(masked(pipe, *texts), **options)


def filled_one(text: str, **options: Any) -> Call:
    """Return a fill-mask call with a single text."""
    return lambda pipe: pipe(*masked(pipe, text), **options)


STRATEGIES = ("none", "simple", "first", "average", "max")
NER_CALLS: dict[str, Call] = {
    "a text": lambda pipe: pipe(TEXTS[0]),
    "by keyword": lambda pipe: pipe(inputs=TEXTS[0]),
    "a list": lambda pipe: pipe(TEXTS),
    "a list of one": lambda pipe: pipe(TEXTS[:1]),
    "an empty text": lambda pipe: pipe(""),
    "an empty text among others": lambda pipe: pipe(["", TEXTS[0]], aggregation_strategy="simple"),
    "a space": lambda pipe: pipe(" ", aggregation_strategy="max"),
    "in capitals": lambda pipe: pipe(TEXTS[0].upper(), aggregation_strategy="first"),
    "characters that are not in the vocabulary": lambda pipe: pipe("the 日本 cat 語! é", aggregation_strategy="first"),
    "the same without grouping": lambda pipe: pipe("the 日本 cat 語! é", ignore_labels=[]),
    **{
        f"{strategy}, a text": lambda pipe, strategy=strategy: pipe(TEXTS[0], aggregation_strategy=strategy)
        for strategy in STRATEGIES
    },
    **{
        f"{strategy}, a list": lambda pipe, strategy=strategy: pipe(TEXTS, aggregation_strategy=strategy)
        for strategy in STRATEGIES
    },
    **{
        f"{strategy}, nothing ignored": lambda pipe, strategy=strategy: pipe(
            TEXTS, aggregation_strategy=strategy, ignore_labels=[]
        )
        for strategy in STRATEGIES
    },
    "a strategy in capitals": lambda pipe: pipe(TEXTS[0], aggregation_strategy="SIMPLE"),
    "a strategy as transformers' member": lambda pipe: pipe(TEXTS[0], aggregation_strategy=aggregations().AVERAGE),
    "labels ignored": lambda pipe: pipe(TEXTS, ignore_labels=["O", "B-PER"]),
    "groups ignored": lambda pipe: pipe(TEXTS, aggregation_strategy="simple", ignore_labels=["PER", "MISC"]),
    "cut at the limit": lambda pipe: pipe([LONG, "cat"], aggregation_strategy="simple"),
    "windows, simple": lambda pipe: pipe(LONG, stride=5, aggregation_strategy="simple"),
    "windows, first": lambda pipe: pipe(LONG, stride=20, aggregation_strategy="first"),
    "windows, average": lambda pipe: pipe([LONG, "cat", LONG], stride=9, aggregation_strategy="average"),
    "windows, max": lambda pipe: pipe([LONG, *TEXTS], stride=3, aggregation_strategy="max", ignore_labels=[]),
    "windows that have nothing in common": lambda pipe: pipe(LONG, stride=0, aggregation_strategy="simple"),
    "windows of a short text": lambda pipe: pipe(TEXTS[0], stride=2, aggregation_strategy="simple"),
    "words": lambda pipe: pipe(WORDS, is_split_into_words=True),
    "words, grouped": lambda pipe: pipe(WORDS, is_split_into_words=True, aggregation_strategy="first"),
    "words and their delimiter": lambda pipe: pipe(WORDS, is_split_into_words=True, delimiter="--"),
    "words without delimiter": lambda pipe: pipe(
        WORDS, is_split_into_words=True, delimiter="", aggregation_strategy="simple", ignore_labels=[]
    ),
    "lists of words": lambda pipe: pipe([WORDS, WORDS[:2]], is_split_into_words=True, ignore_labels=[]),
    "offsets of the caller's": lambda pipe: pipe("the cat", offset_mapping=[(0, 1)] * 9, ignore_labels=[]),
    "a generator": lambda pipe: list(pipe((text for text in TEXTS), aggregation_strategy="simple")),
    "a generator in batches": lambda pipe: list(pipe((text for text in [*TEXTS, LONG]), batch_size=2)),
    "a list in batches": lambda pipe: pipe([*TEXTS, LONG], batch_size=3, aggregation_strategy="max"),
    "an empty generator": lambda pipe: pipe(text for text in []),
}
FILL_CALLS: dict[str, Call] = {
    "a text": filled_one("the _ sat on the mat."),
    "a list": filled("the _ sat on the mat.", "i love this _", "_ news"),
    "a list of one": filled("the _ sat."),
    "two masks": filled_one("the _ sat on the _."),
    "a list of one with two masks": filled("the _ sat on the _."),
    "one mask and two": filled("the _ sat.", "a _ is _", "_"),
    "the mask alone": filled_one("_"),
    "neighbouring masks": filled_one("the __ sat"),
    "top_k 1": filled_one("the _ sat on the mat.", top_k=1),
    "top_k 9": filled("the _ sat on the mat.", "a _", top_k=9),
    "top_k 12": filled_one("a _", top_k=12),
    "top_k 0": filled_one("the _ sat.", top_k=0),
    "targets": filled_one("the _ sat.", targets=["a", "i", "b"]),
    "targets of several": filled("the _ sat.", "a _ is _", targets=["a", "i", "b"]),
    "a target": filled_one("the _ sat.", targets="a"),
    "equal targets": filled_one("the _ sat.", targets=["a", "a", "b"]),
    "targets and top_k": filled_one("the _ sat.", targets=["a", "i", "b"], top_k=2),
    "fewer targets than top_k": filled_one("the _ sat.", targets=["a", "i"], top_k=10),
    "a target of several tokens": filled_one("the _ sat.", targets=["cats", "b"]),
    "a target of a word that is none": filled_one("the _ sat.", targets=["zebra", "b"]),
    "an empty target among others": filled_one("the _ sat.", targets=["", "b"]),
    "truncation": filled_one("the _ sat. " + LONG, tokenizer_kwargs={"truncation": True}),
    "truncation to max_length": filled("the _ sat on the mat.", tokenizer_kwargs={"truncation": True, "max_length": 7}),
    "padding": filled_one("the _ sat.", tokenizer_kwargs={"padding": "max_length", "max_length": 20}),
    "no special tokens": filled_one("the _ sat.", tokenizer_kwargs={"add_special_tokens": False}),
    "a generator": lambda pipe: list(pipe((text for text in masked(pipe, "a _", "_ sat", "the _ is _")), top_k=2)),
    "batches": filled("the _ sat on the mat.", "i love this _", "_ news", batch_size=2),
    "an empty generator": lambda pipe: pipe(text for text in []),
}
FEATURE_CALLS: dict[str, Call] = {
    "a text": lambda pipe: pipe(TEXTS[0]),
    "a list": lambda pipe: pipe(TEXTS),
    "a list of one": lambda pipe: pipe(TEXTS[:1]),
    "an empty text": lambda pipe: pipe(""),
    "tensors": lambda pipe: pipe(TEXTS[0], return_tensors=True),
    "a list of tensors": lambda pipe: pipe(TEXTS, return_tensors=True),
    "no tensors": lambda pipe: pipe(TEXTS[0], return_tensors=False),
    "truncation": lambda pipe: pipe([LONG, "cat"], truncation=True),
    "truncation to max_length": lambda pipe: pipe(LONG, tokenize_kwargs={"truncation": True, "max_length": 6}),
    "truncation beside max_length": lambda pipe: pipe(LONG, truncation=True, tokenize_kwargs={"max_length": 6}),
    "no special tokens": lambda pipe: pipe("the cat", tokenize_kwargs={"add_special_tokens": False}),
    "padding": lambda pipe: pipe("the cat", tokenize_kwargs={"padding": True}),
    "a generator": lambda pipe: list(pipe(text for text in TEXTS)),
    "an empty generator": lambda pipe: pipe(text for text in []),
}

# name -> (task, call, type that both libraries raise, regular expression for the mlx_hf_bridge message)
ERRORS: dict[str, tuple[str, Call, type[Exception], str]] = {
    "no labels given": (ZERO_SHOT, lambda pipe: pipe("cat"), TypeError, "candidate_labels is None"),
    "labels None": (ZERO_SHOT, lambda pipe: pipe("cat", None), TypeError, "candidate_labels is None"),
    "labels a number": (ZERO_SHOT, lambda pipe: pipe("cat", 5), TypeError, "expected a list of labels"),
    "labels a set": (ZERO_SHOT, lambda pipe: pipe("cat", {"a"}), TypeError, "expected a list of labels"),
    "labels empty": (ZERO_SHOT, lambda pipe: pipe("cat", []), ValueError, "expected at least one"),
    "labels only commas": (ZERO_SHOT, lambda pipe: pipe("cat", " , "), ValueError, "expected at least one"),
    "zero-shot of nothing": (ZERO_SHOT, lambda pipe: pipe("", LABELS), ValueError, "one text is empty"),
    "zero-shot of nothing in a list": (
        ZERO_SHOT,
        lambda pipe: pipe(["a", ""], LABELS),
        ValueError,
        "one text is empty",
    ),
    "zero-shot of []": (ZERO_SHOT, lambda pipe: pipe([], LABELS), IndexError, "the list of texts is empty"),
    "zero-shot of None": (ZERO_SHOT, lambda pipe: pipe(None, LABELS), TypeError, "of type NoneType"),
    "zero-shot of a number": (ZERO_SHOT, lambda pipe: pipe([5], LABELS), TypeError, "of type int"),
    "template without place": (
        ZERO_SHOT,
        lambda pipe: pipe("cat", LABELS, hypothesis_template="a cat"),
        ValueError,
        "has no place for the label",
    ),
    "template None": (
        ZERO_SHOT,
        lambda pipe: pipe("cat", LABELS, hypothesis_template=None),
        AttributeError,
        "expected a string like",
    ),
    "a third argument": (ZERO_SHOT, lambda pipe: pipe("cat", LABELS, "{}"), ValueError, "expected only the labels"),
    "labels twice": (ZERO_SHOT, lambda pipe: pipe("a", LABELS, candidate_labels="b"), ValueError, "only the labels"),
    "text of []": (TEXT, lambda pipe: pipe([]), IndexError, "the list of texts is empty"),
    "text of None": (TEXT, lambda pipe: pipe(None), ValueError, "one text is None"),
    "text of a number": (TEXT, lambda pipe: pipe([5]), ValueError, "one text is 5"),
    "text of bytes": (TEXT, lambda pipe: pipe(b"cat"), ValueError, "one text is b'cat'"),
    "a dict without text": (TEXT, lambda pipe: pipe({"text_pair": "a"}), ValueError, "expected a string"),
    "a pair with a number": (TEXT, lambda pipe: pipe({"text": "a", "text_pair": 5}), ValueError, "expected a string"),
    "a chat": (TEXT, lambda pipe: pipe([{"role": "user", "content": "a"}]), ValueError, "expected a string"),
    "a pair as a list": (TEXT, lambda pipe: pipe([["a", "b"]]), ValueError, '"text_pair"'),
    "a nested list": (TEXT, lambda pipe: pipe([["a"]]), ValueError, '"text_pair"'),
    "unknown function": (TEXT, lambda pipe: pipe("a", function_to_apply="default"), KeyError, "use one of sigmoid"),
    "function a number": (TEXT, lambda pipe: pipe("a", function_to_apply=5), ValueError, "function_to_apply=5"),
    "unknown truncation": (TEXT, lambda pipe: pipe("a", truncation="both"), ValueError, "truncation='both'"),
    "unknown padding": (TEXT, lambda pipe: pipe("a", padding="all"), ValueError, "padding='all'"),
    "max_length a string": (TEXT, lambda pipe: pipe(LONG, max_length="5"), TypeError, "max_length='5'"),
    "batch_size 0": (TEXT, lambda pipe: pipe(TEXTS, batch_size=0), ValueError, "batch_size=0"),
    "only_second of one text": (TEXT, lambda pipe: pipe(LONG * 3, truncation="only_second"), Exception, "cannot be"),
    "ner of []": (NER, lambda pipe: pipe([]), ValueError, "At least one input is required"),
    "ner of None": (NER, lambda pipe: pipe(None), ValueError, "Got None, expected a text or a list"),
    "ner of a number": (NER, lambda pipe: pipe(5), ValueError, "Got 5, expected a text"),
    "ner of a number in a list": (NER, lambda pipe: pipe([5]), ValueError, "must be an untokenized string"),
    "ner of a dict": (NER, lambda pipe: pipe({"text": "a"}), ValueError, "expected a text or a list"),
    "ner of a tuple": (NER, lambda pipe: pipe(("a", "b")), ValueError, "must be an untokenized string"),
    "words that are one text": (NER, lambda pipe: pipe("a b", is_split_into_words=True), ValueError, "list of tokens"),
    "offsets of other texts": (
        NER,
        lambda pipe: pipe("the", offset_mapping=[[(0, 1)], [(1, 2)]]),
        ValueError,
        "same batch size",
    ),
    "an unknown strategy": (
        NER,
        lambda pipe: pipe("a", aggregation_strategy="middle"),
        KeyError,
        "aggregation_strategy='middle' is not known; use one of none, simple",
    ),
    "stride without strategy": (
        NER,
        lambda pipe: pipe("a", stride=3, aggregation_strategy="none"),
        ValueError,
        "select another one",
    ),
    "stride beyond the limit": (
        NER,
        lambda pipe: pipe("a", stride=500, aggregation_strategy="simple"),
        ValueError,
        "must be less than",
    ),
    "an old argument of ner": (NER, lambda pipe: pipe("a", grouped_entities=True), TypeError, "got grouped_entities"),
    "an old argument of ner's subwords": (
        NER,
        lambda pipe: pipe("a", ignore_subwords=True),
        TypeError,
        "it takes aggregation_strategy, ignore_labels, stride",
    ),
    "ner, batch_size 0": (NER, lambda pipe: pipe(TEXTS, batch_size=0), ValueError, "batch_size=0"),
    "no mask": (FILL, lambda pipe: pipe("the cat"), Exception, "No mask_token"),
    "no mask in one of several": (
        FILL,
        lambda pipe: pipe([*masked(pipe, "a _"), "the cat"]),
        Exception,
        "Put the tokenizer's mask token where a word is missing",
    ),
    "an empty text to fill": (FILL, lambda pipe: pipe(""), Exception, "No mask_token"),
    "fill-mask of []": (FILL, lambda pipe: pipe([]), IndexError, "the list of texts is empty"),
    "no targets": (FILL, filled_one("a _", targets=[]), ValueError, "At least one target"),
    "empty targets": (FILL, filled_one("a _", targets=["", ""]), ValueError, "At least one target"),
    "more words than there are": (FILL, filled_one("a _", top_k=5000), RuntimeError, "top_k=5000, and there are"),
    "fewer words than none": (FILL, filled_one("a _", top_k=-1), RuntimeError, "Ask for 0 to"),
    "top_k a string": (FILL, filled_one("a _", top_k="5"), TypeError, "expected an integer number of tokens"),
    "an old argument of fill-mask": (FILL, filled_one("a _", topk=2), TypeError, "got topk"),
    "features of []": (FEATURES, lambda pipe: pipe([]), IndexError, "the list of texts is empty"),
    "features of None": (FEATURES, lambda pipe: pipe(None), ValueError, "one text is None"),
    "features of a number": (FEATURES, lambda pipe: pipe([5]), ValueError, "one text is 5"),
    "truncation twice": (
        FEATURES,
        lambda pipe: pipe("a", truncation=True, tokenize_kwargs={"truncation": True}),
        ValueError,
        "defined twice",
    ),
    "features, unknown truncation": (FEATURES, lambda pipe: pipe("a", truncation="b"), ValueError, "truncation='b'"),
    "features, batch_size 0": (FEATURES, lambda pipe: pipe(TEXTS, batch_size=0), ValueError, "batch_size=0"),
}
CALLS = {
    (task, name): call
    for task, table in {
        ZERO_SHOT: ZERO_SHOT_CALLS,
        TEXT: TEXT_CALLS,
        NER: NER_CALLS,
        FILL: FILL_CALLS,
        FEATURES: FEATURE_CALLS,
    }.items()
    for name, call in table.items()
}
