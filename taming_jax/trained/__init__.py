"""Trained models as objects, and the networks that a training stands on."""
