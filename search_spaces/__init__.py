"""Data only: the search space, paper recipe and paper points of each method, the shared recipes, the studies."""
