"""The project's own commands: set-up, and the checks of what is not Python."""
