"""From any supported matrix to checked counts, and from these to minibatches: in memory, in a file, on a device."""
