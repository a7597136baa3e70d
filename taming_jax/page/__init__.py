"""A page in the browser on which a trained model draws what it is asked for; `python -m taming_jax.page`."""
