"""Search in a folder of the user's own text files: files into passages, passages into an index file, a query into hits.

`index.py` has `FolderIndex`, `documents.py` reads files and splits them, `index_file.py` stores the index.
"""
