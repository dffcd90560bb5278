"""From a fresh process to the first embedding: ours (converted before) against sentence-transformers on torch.

python -m benchmarks.cold_start [--runs 5] [--recipe q8]
"""

from benchmarks.models import parser
from benchmarks.processes import alternating, medians

OURS = """
import sys
from mlx_hf_bridge import MLXSentenceTransformer
recipe = None if sys.argv[2] == "float" else sys.argv[2]
assert MLXSentenceTransformer(sys.argv[1], quantization_config=recipe).encode("a first text").shape == (384,)
"""
THEIRS = """
import sys
from sentence_transformers import SentenceTransformer
assert SentenceTransformer(sys.argv[1], device="cpu").encode("a first text").shape == (384,)
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--recipe", default="q8", help="a recipe, or 'float'")
    given = arguments.parse_args()
    runs = alternating({"ours": OURS, "theirs": THEIRS}, given.runs, given.model, given.recipe)
    ours, theirs = medians(runs["ours"]), medians(runs["theirs"])
    print(f"cold start to first embedding, {given.recipe}, medians of {given.runs} alternating runs")
    print(f"ours                   {ours.seconds:7.2f} s  {ours.peak_mib:7.0f} MiB")
    print(f"sentence-transformers  {theirs.seconds:7.2f} s  {theirs.peak_mib:7.0f} MiB")
    print(f"ratio                  {ours.seconds / theirs.seconds:7.3f}    {ours.peak_mib / theirs.peak_mib:7.3f}")


if __name__ == "__main__":
    main()
