"""Images: where they come from, how they are decoded once into a cache, and which of them each step has."""
