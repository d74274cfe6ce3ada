"""The project's own commands: set-up, figures, and the checks of other languages."""
