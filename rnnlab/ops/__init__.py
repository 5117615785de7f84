"""Linear maps, activations, initialisers, normalisation, norms that do not overflow, random numbers."""
