"""Question answering: find the span of a text that answers each question.

python examples/answer_questions.py [model] [file]
"""

import sys
from pathlib import Path

from mlx_hf_bridge import pipeline

TEXT = (
    "The bakery on Mill Lane opens at six in the morning. It is closed on Sundays, when Anna sells bread at the market."
)
QUESTIONS = ["When does the bakery open?", "Who sells bread at the market?", "What does a loaf cost?"]


def main(model_name: str = "deepset/roberta-base-squad2", file: str | None = None) -> None:
    text = Path(file).read_text(encoding="utf-8") if file else TEXT
    answer = pipeline("question-answering", model=model_name)
    # With handle_impossible_answer the result can also be that the text has no answer.
    for question, best in zip(
        QUESTIONS, answer(question=QUESTIONS, context=text, handle_impossible_answer=True), strict=True
    ):
        print(f"{question}  {best['answer'] or '(no answer)'}  {best['score']:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
