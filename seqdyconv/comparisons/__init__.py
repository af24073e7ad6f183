"""Comparisons of models that were given the same chance: a search of settings for each, then runs of several seeds."""
