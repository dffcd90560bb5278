"""Record the results of the question-answering pipeline of transformers 4.57, which transformers 5 has removed.

In a separate environment: pip install transformers==4.57.6 torch==2.13.0, then
python tests/goldens/question_answering.py (writes question_answering.json next to it).
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tiny import MAKERS

QUESTION, OTHER = "who sat on the mat?", "where is the man"
CONTEXT = "The cats sat on the mat, the dog went home. A man is in the house, singing."
UNKNOWN = "The cat 日本 sat é on... the  mat\n  and went \t home "
THINGS = ["cat", "dog", "man", "house", "home", "zoo", "lake", "hill"]
LONG = " ".join(f"{thing}. The {thing} sat on a mat in the {thing}" for thing in THINGS)
BOTH = {"question": QUESTION, "context": CONTEXT}
NOTHING = {"question": "?", "context": "cat"}
LONGER = {"question": OTHER, "context": LONG}

# Positional and keyword arguments of each call.
CALLS: list[tuple[list[Any], dict[str, Any]]] = [
    ([], BOTH),
    ([], {"question": OTHER, "context": CONTEXT}),
    ([], LONGER),
    ([], {"question": QUESTION, "context": UNKNOWN}),
    ([], {"question": QUESTION.upper(), "context": CONTEXT.upper()}),
    ([], NOTHING),
    ([], {"question": QUESTION, "context": "."}),
    ([], {"question": [QUESTION], "context": [CONTEXT]}),
    ([], {"question": [QUESTION, OTHER], "context": [CONTEXT, LONG]}),
    ([], {"question": [QUESTION, OTHER, "who?"], "context": CONTEXT}),
    ([], {"question": [QUESTION, OTHER, "who?"], "context": LONG, "batch_size": 2}),
    ([BOTH], {}),
    ([[BOTH]], {}),
    ([[BOTH, LONGER]], {}),
    ([BOTH, LONGER], {}),
    ([QUESTION, CONTEXT], {}),
    ([[BOTH, LONGER]], {"top_k": 2, "batch_size": 2}),
    *(([], {**one, "top_k": count}) for one in (BOTH, LONGER) for count in (1, 2, 5, 20)),
    ([], {**BOTH, "top_k": 900, "max_answer_len": 1}),
    *(([], {**one, "max_answer_len": count}) for one in (BOTH, LONGER) for count in (1, 2, 6, 100)),
    *(([], {**one, "handle_impossible_answer": True, "top_k": count}) for one in (BOTH, LONGER) for count in (1, 4)),
    *(([], {**NOTHING, "handle_impossible_answer": True, "top_k": count}) for count in (1, 3)),
    *(([], {**one, "align_to_words": False, "top_k": count}) for one in (BOTH, LONGER) for count in (1, 3, 11)),
    *(([], {**LONGER, "doc_stride": count, "top_k": 3}) for count in (0, 1, 7, 12)),
    *(([], {**LONGER, "max_seq_len": count, "doc_stride": 4, "top_k": 3}) for count in (30, 41, 60)),
    ([], {**BOTH, "max_seq_len": 30, "doc_stride": 2, "handle_impossible_answer": True, "top_k": 6}),
    ([], {**LONGER, "doc_stride": 5, "align_to_words": False, "max_answer_len": 3, "top_k": 4}),
    ([], {"question": QUESTION, "context": UNKNOWN, "top_k": 6, "max_answer_len": 4}),
    ([], {"question": QUESTION, "context": UNKNOWN, "top_k": 6, "align_to_words": False}),
    ([], {**BOTH, "padding": "max_length"}),
    ([], {**BOTH, "max_question_len": 2}),
    ([], {**LONGER, "padding": True, "top_k": 2}),
    # Calls that raise an error.
    ([], {**BOTH, "top_k": 0}),
    ([], {**BOTH, "max_answer_len": 0}),
    ([], {**BOTH, "doc_stride": 50, "max_seq_len": 40}),
    ([], {"question": QUESTION}),
    ([], {"question": None, "context": CONTEXT}),
    ([], {"question": [QUESTION, OTHER], "context": [CONTEXT]}),
    ([], {"question": "", "context": CONTEXT}),
    ([], {"question": QUESTION, "context": ""}),
    ([], {"question": [QUESTION, None], "context": CONTEXT}),
    ([{"question": QUESTION}], {}),
    ([{"question": QUESTION, "context": None}], {}),
    ([[1, 2]], {}),
    ([QUESTION], {}),
]


def answered(pipe: Any, args: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a call, or the name of the built-in exception class that it raises."""
    try:
        return {"result": pipe(*args, **options)}
    except Exception as error:
        return {"error": next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")}


def main() -> None:
    """Run all calls on every tiny checkpoint and write question_answering.json."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    found = {}
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            pipe = transformers.pipeline("question-answering", model=folder, device="cpu")
            found[name] = [
                {"args": args, "options": options, **answered(pipe, args, options)} for args, options in CALLS
            ]
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    text = json.dumps({**versions, "calls": found}, ensure_ascii=False).replace('{"args"', '\n{"args"') + "\n"
    Path(__file__).with_suffix(".json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
