"""`python -m mlx_hf_bridge`: the command line."""

import sys

from mlx_hf_bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
