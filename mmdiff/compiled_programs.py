"""Compiled programs kept on disk: other seeds, other strategies and a run that goes on load them instead of compiling."""

import jax

from mmdiff.user_cache import cache_folder

MAX_BYTES = 4 * 2**30  # of all programs; the least recently used are removed first
WORTH_KEEPING = 0.2  # seconds of compilation


def keep_compiled_programs() -> None:
    """Turns JAX's cache on, below the folder of `cache_folder`; a folder that the user has named for JAX stays."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
