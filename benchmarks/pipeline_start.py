"""Measure time and memory from a fresh process to a pipeline's first result: this project's and transformers'.

A third variant imports transformers.pipelines first, as a pipeline that subclassed transformers' classes would.

python -m benchmarks.pipeline_start [--runs 5]
"""

from benchmarks.models import parser
from benchmarks.processes import alternating, medians

BRIDGE = """
import sys
from mlx_hf_bridge import pipeline
pipe = pipeline("feature-extraction", sys.argv[1])
assert len(pipe("a first text")[0][0]) == pipe.model.config.hidden_size
assert "torch" not in sys.modules
"""
REFERENCE_CODE = """
import sys
from transformers import pipeline
pipe = pipeline("feature-extraction", sys.argv[1], device="cpu")
assert len(pipe("a first text")[0][0]) == pipe.model.config.hidden_size
"""
CODES = {
    "mlx_hf_bridge": BRIDGE,
    "with transformers imported": "import transformers.pipelines\n"
    + BRIDGE.replace('assert "torch" not in sys.modules', ""),
    "transformers": REFERENCE_CODE,
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=5)
    given = arguments.parse_args()
    runs = alternating(CODES, given.runs, given.model)
    print(f"cold start to a pipeline's first result, medians of {given.runs} alternating runs")
    for name, found in runs.items():
        median = medians(found)
        print(f"{name:27s} {median.seconds:7.2f} s  {median.peak_mib:7.0f} MiB")


if __name__ == "__main__":
    main()
