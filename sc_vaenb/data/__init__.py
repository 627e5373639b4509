"""Read any supported matrix as checked counts, and make minibatches of them: from memory, a file or a device."""
