"""Measure time and memory from a fresh process to the first embedding, with a converted model and on torch.

python -m benchmarks.cold_start [--runs 5] [--recipe q8]
"""

from benchmarks.models import parser
from benchmarks.processes import alternating, medians

BRIDGE = """
import sys
from mlx_hf_bridge import MLXSentenceTransformer
recipe = None if sys.argv[2] == "float" else sys.argv[2]
assert MLXSentenceTransformer(sys.argv[1], quantization_config=recipe).encode("a first text").shape == (384,)
"""
REFERENCE_CODE = """
import sys
from sentence_transformers import SentenceTransformer
assert SentenceTransformer(sys.argv[1], device="cpu").encode("a first text").shape == (384,)
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--recipe", default="q8", help="a recipe, or 'float'")
    given = arguments.parse_args()
    runs = alternating({"bridge": BRIDGE, "reference": REFERENCE_CODE}, given.runs, given.model, given.recipe)
    bridge, reference = medians(runs["bridge"]), medians(runs["reference"])
    print(f"cold start to first embedding, {given.recipe}, medians of {given.runs} alternating runs")
    print(f"mlx_hf_bridge          {bridge.seconds:7.2f} s  {bridge.peak_mib:7.0f} MiB")
    print(f"sentence-transformers  {reference.seconds:7.2f} s  {reference.peak_mib:7.0f} MiB")
    seconds, memory = bridge.seconds / reference.seconds, bridge.peak_mib / reference.peak_mib
    print(f"ratio                  {seconds:7.3f}    {memory:7.3f}")


if __name__ == "__main__":
    main()
