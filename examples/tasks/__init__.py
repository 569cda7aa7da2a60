"""What is learned: from the flags of a task to its data, model and metrics."""
