"""transformers' own pipeline files, run without torch: their post-processing over our base class.

`transformers_tasks.pipelines` goes on in transformers' folder of that name, so `transformers_tasks.pipelines.fill_mask` is transformers' file.
What such a file imports from around it (`..utils`, `.base`) it finds here, under the names that it asks for.
"""
