"""One file a lesson: its tasks, their cases and points, and the mistakes they can name."""
