"""Makes, trains and measures the demo bundle in ``demo/bundle``."""
