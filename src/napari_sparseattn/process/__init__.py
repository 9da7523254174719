"""One road from a file to its results, for the command line, batches and scripts."""
