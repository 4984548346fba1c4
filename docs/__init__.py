"""Documents, and the commands that draw their figures and write their reference."""
