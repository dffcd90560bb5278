"""From a repo's files to sentence-transformers modules, and back: settings, arguments, readers and saving."""
