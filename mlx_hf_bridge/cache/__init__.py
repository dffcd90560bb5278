"""The cache of converted models: what is in it, whether it is intact, and how to make room.

Example:
    ```python
    from mlx_hf_bridge.cache import remove, scan_cache, verify

    found = scan_cache()
    for model in found.models:
        print(model.source, model.recipe, model.size, model.state, *verify(model))
    remove(found.prunable(unused_days=90))
    ```

`mlx-hf-bridge cache` is the same on the command line. The folders themselves are written and found by
`conversion/cache.py`; nothing here is needed to load a model.
"""

from mlx_hf_bridge.cache.inventory import CachedModel, CacheInfo, Leftover, scan_cache
from mlx_hf_bridge.cache.removal import Removal, remove
from mlx_hf_bridge.cache.states import verify

__all__ = ["CacheInfo", "CachedModel", "Leftover", "Removal", "remove", "scan_cache", "verify"]
