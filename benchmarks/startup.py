"""Measure CPU seconds of fresh processes: what zero-change mode adds to `import transformers`, and `--help`."""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def spent(*arguments: str) -> float:
    """Return the CPU seconds of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text("import transformers\n", encoding="utf-8")
        pairs = [(spent(str(script)), spent("-m", "mlx_hf_bridge", str(script))) for _ in range(runs)]
        plain, mode = (min(seconds) for seconds in zip(*pairs, strict=True))
        print(f"plain {plain:.3f} s, in zero-change mode {mode:.3f} s, ratio {mode / plain:.3f} (best of {runs})")
        # The name of the installed command, which imports MLX only when it computes.
        command = Path(folder) / "mlx-hf-bridge"
        command.write_text("import sys\nfrom mlx_hf_bridge.cli import main\nsys.exit(main())\n", encoding="utf-8")
        for words in (["--help"], ["--version"], ["convert", "--help"]):
            seconds = min(spent(str(command), *words) for _ in range(runs))
            print(f"mlx-hf-bridge {' '.join(words)}: {seconds:.3f} s (best of {runs})")


if __name__ == "__main__":
    main()
