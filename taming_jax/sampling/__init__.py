"""Drawing token sequences from a trained transformer: filters on the logits, cached decoding, sliding windows.

It knows nothing of training, and needs neither TensorFlow nor a checkpoint: parameters, ids and keys in, ids out.
"""
