"""Measure what each recipe costs: cosine to float32, Spearman's correlation on STS-B, and bytes on disk.

python -m benchmarks.fidelity --sts stsb-en-dev.csv [--recipes q8,q4]
The file has the columns sentence, sentence, score (0 to 5), as the STS benchmark is published.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.models import parser
from mlx_hf_bridge import MLXSentenceTransformer


def read_pairs(path: str) -> tuple[list[str], list[str], list[float]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3]
    return [row[0] for row in rows], [row[1] for row in rows], [float(row[2]) for row in rows]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sts", required=True)
    arguments.add_argument("--recipes", default="q8,q6,q5,q4,q3,mxfp8,mxfp4,nvfp4")
    given = arguments.parse_args()
    first, second, scores = read_pairs(given.sts)
    source = folder_bytes(MLXSentenceTransformer(given.model).folder) if not Path(given.model).is_dir() else 0
    source = source or (Path(given.model) / "model.safetensors").stat().st_size
    floats = MLXSentenceTransformer(given.model)
    reference = floats.encode(first), floats.encode(second)

    def spearman(a: np.ndarray, b: np.ndarray) -> float:
        return 100 * float(
            spearmanr((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1), scores)[0]
        )

    print(f"{'recipe':8} {'mean cos':>9} {'worst cos':>9} {'Spearman':>9} {'difference':>10} {'folder/float file':>18}")
    base = spearman(*reference)
    print(f"{'float32':8} {1:9.5f} {1:9.5f} {base:9.2f} {0:10.2f}")
    for recipe in given.recipes.split(","):
        model = MLXSentenceTransformer(given.model, quantization_config=recipe)
        vectors = model.encode(first), model.encode(second)
        a, b = np.concatenate(reference), np.concatenate(vectors)
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        score, ratio = spearman(*vectors), folder_bytes(model.folder) / source
        print(f"{recipe:8} {cosines.mean():9.5f} {cosines.min():9.5f} {score:9.2f} {score - base:10.2f} {ratio:18.3f}")


if __name__ == "__main__":
    main()
