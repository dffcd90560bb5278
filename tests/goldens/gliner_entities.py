"""Record the logits and entities of the gliner package for the models of gliner_models.py.

In a separate environment: pip install torch==2.13.0 transformers==5.23.0, pip install --no-deps gliner==0.2.29 (which
asks for an older transformers and runs with this one), then python tests/goldens/gliner_entities.py (writes
gliner_entities.json next to it).
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from gliner_models import MODELS, make

TEXTS = [
    "Ada Lovelace lived in London.",
    "paris",
    "The son of the-king_of Paris (born 1815), é 日本; lived?",
    "ada ada ada, lovelace of london in paris lived the person",
]
LONG = " ".join(f"word{number}" for number in range(40))
LABELS = ["person", "city of birth", "日"]

# Name, texts, labels and options of each call.
CALLS: list[tuple[list[Any], Any, dict[str, Any]]] = [
    (TEXTS, LABELS, {}),
    (TEXTS, LABELS, {"threshold": 0.3}),
    (TEXTS, LABELS, {"threshold": 0.2, "flat_ner": False}),
    (TEXTS, LABELS, {"threshold": 0.2, "multi_label": True}),
    (TEXTS, LABELS, {"threshold": 0.2, "flat_ner": False, "multi_label": True}),
    (TEXTS, [*LABELS, "person", "Person"], {"threshold": 0.4}),
    (TEXTS, "city", {}),
    (TEXTS, ["  spaces  ", "emoji 🙂", "<<ENT>>x"], {}),
    (TEXTS, {"PER": "the name of a person", "LOC": "a city"}, {}),
    (TEXTS[:2], [["person"], ["city", "person", "london"]], {}),
    (["", "  ", TEXTS[0], None, "\n"], LABELS, {}),
    ([TEXTS[0] + " <<ENT>> <<SEP>> paris"], LABELS, {}),
    ([LONG], LABELS, {"threshold": 0.4}),
    ([TEXTS[0]], LABELS, {"input_spans": [[{"start": 0, "end": 12}, {"start": 1, "end": 3}]], "threshold": 0.01}),
    ([], LABELS, {}),
]
WITH_PROBABILITIES = ([TEXTS[2]], [*LABELS, "a", "b", "c", "d"], {"return_class_probs": True, "threshold": 0.4})


def answered(model: Any, texts: list[Any], labels: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the entities of each text, one text in a batch, or the name of the error."""
    try:
        return {
            "entities": [list(map(compact, found)) for found in model.inference(texts, labels, batch_size=1, **options)]
        }
    except Exception as error:
        return {"error": type(error).__name__}


def logits(model: Any, text: str) -> list[Any]:
    prepared = model.prepare_batch([text], LABELS)
    output = model.run_batch(model.collate_batch(prepared["input_x"], prepared["entity_types"]))
    return rounded(output[0][0].float().tolist())


def compact(entity: dict[str, Any]) -> list[Any]:
    """Return an entity without the names of its values and without its text, so that the file stays small."""
    return [rounded(entity[key]) for key in ("start", "end", "label", "score", "class_probs") if key in entity]


def rounded(value: Any) -> Any:
    """Return nested results with seven digits, more than the tolerance of tests."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def main() -> None:
    from gliner import GLiNER

    found = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            model = GLiNER.from_pretrained(str(make(Path(folder), name)))
        calls = [*CALLS, WITH_PROBABILITIES]
        found[name] = {"logits": logits(model, TEXTS[2]), "calls": [answered(model, *call) for call in calls]}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
