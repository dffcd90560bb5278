"""What low bits cost a classifier that torch trains on AG News: float, 8 and calibrated 4 bits on held-out texts.

python -m benchmarks.classifier --news ag-news.csv
The file has the columns label (1 to 4), title, text, as AG News is published.
"""

import csv
import tempfile
from pathlib import Path

import torch
import transformers

from benchmarks.models import parser
from mlx_hf_bridge import verify

LABELS = {"1": "World", "2": "Sports", "3": "Business", "4": "Science"}
TRAINED, TESTED, BATCH, LENGTH = 1600, 600, 16, 64


def read_news(path: str) -> tuple[list[str], list[str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [f"{row[1]}. {row[2]}" for row in rows], [LABELS[row[0]] for row in rows]


def train(model: str, texts: list[str], labels: list[str], folder: Path) -> None:
    torch.manual_seed(0)
    names = dict(enumerate(LABELS.values()))
    places = {name: number for number, name in names.items()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(names), id2label=names, label2id=places
    ).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-4)
    order = torch.randperm(len(texts)).tolist()
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        loss = classifier(**inputs, labels=torch.tensor([places[labels[row]] for row in rows])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    classifier.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--news", required=True)
    arguments.add_argument("--recipes", default="q8,q4-best,q4")
    given = arguments.parse_args()
    texts, labels = read_news(given.news)
    with tempfile.TemporaryDirectory() as scratch:
        folder, test = Path(scratch) / "classifier", Path(scratch) / "test.csv"
        train(given.model, texts[:TRAINED], labels[:TRAINED], folder)
        with test.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(zip(texts[-TESTED:], labels[-TESTED:], strict=True))
        for recipe in given.recipes.split(","):
            figures = verify(folder, quantization_config=recipe, labelled=test).figures
            wanted = ("accuracy", "accuracy_reference", "f1", "f1_reference", "label_agreement", "size_ratio")
            print(f"{recipe:8}", {name: round(figures[name], 2) for name in wanted}, flush=True)


if __name__ == "__main__":
    main()
