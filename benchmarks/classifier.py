"""Measure what quantization costs a classifier trained on AG News with torch: accuracy and F1 on held-out texts.

python -m benchmarks.classifier --news ag-news.csv
The file has the columns label (1 to 4), title, text, as AG News is published.
"""

import csv
import tempfile
import time
from pathlib import Path

import torch
import transformers

from benchmarks.models import parser
from mlx_hf_bridge import verify

LABELS = {"1": "World", "2": "Sports", "3": "Business", "4": "Science"}
TRAINED, TESTED, BATCH, LENGTH, RATE = 1600, 600, 16, 64, 2e-4


def read_news(path: str) -> tuple[list[str], list[str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [f"{row[1]}. {row[2]}" for row in rows], [LABELS[row[0]] for row in rows]


def train(model: str, texts: list[str], labels: list[str], folder: Path) -> None:
    """Train for one epoch; only the upper half of the layers and the head, which takes half the time."""
    torch.manual_seed(0)
    names = dict(enumerate(LABELS.values()))
    label_ids = {name: number for number, name in names.items()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(names), id2label=names, label2id=label_ids
    ).train()
    layers = classifier.base_model.encoder.layer
    for frozen in (classifier.base_model.embeddings, *layers[: len(layers) // 2]):
        frozen.requires_grad_(False)
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    starts = range(0, len(texts), BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, len(starts))
    order = torch.randperm(len(texts)).tolist()
    for start in starts:
        rows = order[start : start + BATCH]
        inputs = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        loss = classifier(**inputs, labels=torch.tensor([label_ids[labels[row]] for row in rows])).loss
        loss.backward()
        optimizer.step()
        schedule.step()
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
        start_time = time.perf_counter()
        train(given.model, texts[:TRAINED], labels[:TRAINED], folder)
        print(f"trained on {TRAINED} texts in {time.perf_counter() - start_time:.0f} s", flush=True)
        with test.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(zip(texts[-TESTED:], labels[-TESTED:], strict=True))
        for recipe in given.recipes.split(","):
            figures = verify(folder, quantization_config=recipe, labelled=test).figures
            wanted = ("accuracy", "accuracy_reference", "f1", "f1_reference", "label_agreement", "size_ratio")
            print(f"{recipe:8}", {name: round(figures[name], 2) for name in wanted}, flush=True)


if __name__ == "__main__":
    main()
