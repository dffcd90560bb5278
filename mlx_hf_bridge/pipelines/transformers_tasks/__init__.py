"""transformers' own pipeline files, run without torch: their post-processing on this project's base class.

The package path of `transformers_tasks.pipelines` is extended into the installed transformers/pipelines folder, so
`transformers_tasks.pipelines.fill_mask` is transformers' own file. What such a file imports from its surroundings
(`..utils`, `.base`) resolves to the modules of this package, which offer the same names without torch.
"""
