"""Poses without networks: the search for a first map, refinement, and the choice among an encoder's poses."""
