"""transformers' own pipeline files, run without torch: their post-processing on top of our base class.

The path of `transformers_tasks.pipelines` continues in transformers' folder of that name, so
`transformers_tasks.pipelines.fill_mask` is transformers' file. What such a file imports from its surroundings
(`..utils`, `.base`) it finds here, under the names that it asks for.
"""
