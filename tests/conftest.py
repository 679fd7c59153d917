# Scripts that do their work when imported.
collect_ignore = ["without_tensorflow.py", "presets/make_saved.py"]
