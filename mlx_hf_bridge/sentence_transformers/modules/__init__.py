"""The modules of modules.json, one small class each: a `Features` goes in and a `Features` comes out.

Models read by the loader hold a list of them. Reading modules.json and choosing the classes is in `loading/`.
"""
