"""Encoders that look vectors up and pool them: model2vec, word2vec, GloVe, fastText."""
