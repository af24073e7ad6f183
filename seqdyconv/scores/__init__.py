"""What a model's answers are worth, one module for each task; import it from the modules in here."""
