"""Recurrent layers, softmax and attention, the network; what happened inside it on one batch."""
