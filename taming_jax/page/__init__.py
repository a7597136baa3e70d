"""A page in the browser on which label maps are painted and drawn as pictures; `python -m taming_jax.page`."""
