"""Storage as a run knows it: the interface that is handed to it, and what sends its writes in the background."""
